#!/usr/bin/env bash
# scripts/setup.sh against stand-ins of apt, dpkg and Python: what it installs, what it refuses, what it repeats.

set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
sandbox=$(mktemp -d)
trap 'rm -rf -- "$sandbox"' EXIT
chmod 755 "$sandbox"
unset TESSERA_LIBTORCH TESSERA_SKIP_APT
failures=0

expect() {  # expect DESCRIPTION COMMAND…
  if "${@:2}"; then echo "ok: $1"; else
    echo "FAILED: $1" >&2
    failures=$((failures + 1))
  fi
}
says() { grep -qF -- "$1" "$sandbox/output"; }
calls() { grep -cE -- "$1" "$sandbox/calls" || true; }

# The programs that setup.sh runs, each noting its call. $sandbox/installed stands for dpkg's database,
# $sandbox/lists for apt's package lists.
stand_ins=$sandbox/bin
mkdir "$stand_ins"
cat >"$stand_ins/dpkg-query" <<'END'
#!/bin/sh
grep -qx "$3" "$SANDBOX/installed" && printf installed
END
cat >"$stand_ins/apt-get" <<'END'
#!/bin/bash
printf 'apt-get %s\n' "$*" >>"$SANDBOX/calls"
case " $* " in
  *" -s "*) [ -e "$SANDBOX/lists" ] ;;
  *" update "*) touch "$SANDBOX/lists" ;;
  *" install "*) [ -e "$SANDBOX/lists" ] && printf '%s\n' "$@" >>"$SANDBOX/installed" ;;
esac
END
cat >"$stand_ins/python3" <<'END'
#!/bin/bash
printf 'python3 %s\n' "$*" >>"$SANDBOX/calls"
mkdir -p "$3/bin" && cp "$SANDBOX/venv-python" "$3/bin/python"
END
cat >"$sandbox/venv-python" <<'END'
#!/bin/bash
printf 'pip %s\n' "$*" >>"$SANDBOX/calls"
[ -e "$SANDBOX/pip-fails" ] && exit 1
torch=$(dirname "$0")/../lib/python3.11/site-packages/torch
mkdir -p "$torch" && cp -r "$SANDBOX/torch/." "$torch"
END
printf '#!/bin/sh\necho "libc10.so => here"\n' >"$stand_ins/ldd"
chmod -R a+rx "$stand_ins" "$sandbox/venv-python"

make_libtorch() {  # make_libtorch FOLDER MINOR
  mkdir -p "$1/include/ATen" "$1/include/torch/headeronly" "$1/lib"
  touch "$1/include/ATen/ATen.h" "$1/lib/libtorch_cpu.so"
  printf '#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR %s\n#define TORCH_VERSION_PATCH 0\n' "$2" \
    >"$1/include/torch/headeronly/version.h"
}
make_libtorch "$sandbox/torch" 11
make_libtorch "$sandbox/old torch" 10

fresh_clone() {
  rm -rf -- "$sandbox/clone" "$sandbox/lists" "$sandbox/pip-fails"
  mkdir "$sandbox/clone"
  cp -r "$repository/scripts" "$sandbox/clone/"
  : >"$sandbox/installed"
  : >"$sandbox/calls"
}
setup() { SANDBOX=$sandbox PATH=$stand_ins:$PATH "$sandbox/clone/scripts/setup.sh" "$@" >"$sandbox/output" 2>&1; }
not() { ! "$@"; }

# --- TESSERA_LIBTORCH ---
fresh_clone
expect "a missing folder is refused" not env TESSERA_LIBTORCH="$sandbox/none" bash -c \
  "'$sandbox/clone/scripts/setup.sh' >'$sandbox/output' 2>&1"
expect "… and named" says "no folder at '$sandbox/none'"
TESSERA_LIBTORCH="$sandbox/old torch" expect "another version is refused" not setup
expect "… with both versions" says "expected LibTorch 2.11, found version '2.10.0'"
expect "… before anything is installed" test "$(calls .)" = 0
TESSERA_LIBTORCH=$sandbox/torch expect "a right one is printed" setup --print-libtorch
expect "… alone" test "$(<"$sandbox/output")" = "$sandbox/torch"
expect "--print-libtorch before an installation fails" not setup --print-libtorch
expect "an unknown option fails" not setup --frobnicate

# --- from nothing, as root ---
if ((EUID == 0)); then
  fresh_clone
  expect "a fresh machine is set up" setup
  expect "… what is installed is said" says libsentencepiece-dev
  expect "… package lists are fetched first" test "$(grep -v -- ' -s ' "$sandbox/calls" | head -1 | grep -c update)" = 1
  expect "… once" test "$(calls ' update')" = 1
  expect "… LibTorch without its dependencies" test "$(calls 'pip .*--no-deps.* torch==2\.11\.0 ')" = 1
  expect "… its folder is printed" setup --print-libtorch
  expect "… alone" test "$(<"$sandbox/output")" = "$sandbox/clone/.deps/venv/lib/python3.11/site-packages/torch"

  : >"$sandbox/calls"
  expect "a second call succeeds" setup
  expect "… and calls neither apt nor pip" test "$(calls .)" = 0

  sed -i '/^libyaml-cpp-dev$/d' "$sandbox/installed"
  expect "one package that went missing comes back" setup
  expect "… alone" test "$(calls 'install( --no-install-recommends)? libyaml-cpp-dev$')" = 2  # the simulation and the installation

  rm "$sandbox/clone/.deps/venv/tessera-complete"
  : >"$sandbox/calls"
  touch "$sandbox/pip-fails"
  expect "a failing pip fails the setup" not setup
  expect "… which does not count as installed" not setup --print-libtorch
  rm "$sandbox/pip-fails"
  expect "a half-finished environment is made anew" setup
  expect "… and said to be" says half-finished

  # --- neither root nor sudo ---
  fresh_clone
  chmod -R a+rwX "$sandbox/clone"
  ln -sf "$(command -v bash)" "$stand_ins/bash"
  for tool in dirname basename env mkdir flock awk sed grep cat; do ln -sf "$(command -v $tool)" "$stand_ins/$tool"; done
  setup_as_nobody() {
    setpriv --reuid 65534 --regid 65534 --clear-groups env SANDBOX="$sandbox" PATH="$stand_ins" \
      "$sandbox/clone/scripts/setup.sh" >"$sandbox/output" 2>&1
  }
  expect "without root and sudo it fails" not setup_as_nobody
  expect "… and gives the administrator's command" says "apt-get install --no-install-recommends build-essential"
  expect "… without trying" test "$(calls install)" = 0
else
  echo "skipped: installing needs root, also with stand-ins"
fi

if ((failures > 0)); then
  echo "$failures expectations failed; the last output was:" >&2
  cat "$sandbox/output" >&2
  exit 1
fi
