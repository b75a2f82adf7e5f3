#!/usr/bin/env bash
# Installs what Tessera's build, tests and quickstart need, and nothing that is already there.
#
#   scripts/setup.sh                    install what is missing
#   scripts/setup.sh --print-libtorch   print LibTorch's folder, which an earlier call installed or accepted
#   scripts/setup.sh --help
#
# - Debian packages (compiler, CMake, libraries), by apt, as root or through sudo.
# - LibTorch from the PyPI package torch, with the two small CUDA libraries that its CPU library loads, into
#   .deps/venv in the repository (550 MB to download, 1.3 GB on disk). Your own Python stays as it is.
#
# Environment:
#   TESSERA_LIBTORCH=/path   use this LibTorch 2.11 (it holds include/ and lib/) and install none
#   TESSERA_SKIP_APT=1       install no Debian packages: you have provided their like yourself

set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

readonly torch_version=2.11.0
readonly pip_packages=("torch==$torch_version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
readonly deps=$repository/.deps
readonly venv=$deps/venv
readonly marker=$venv/tessera-complete  # written last: without it the environment is half-finished
readonly log=$deps/setup.log

apt_packages=(
  build-essential cmake ninja-build pkg-config ccache lld  # compiler and build
  python3 ca-certificates                                  # source checks; downloads
  libopencv-core-dev libopencv-imgproc-dev libopencv-imgcodecs-dev
  libsentencepiece-dev libyaml-cpp-dev libboost-program-options-dev libpcre2-dev
  nlohmann-json3-dev libspdlog-dev libarchive-dev libcsv-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)

# --- Debian packages -------------------------------------------------------------------------------------------------

missing_packages() {
  local package
  for package in "$@"; do
    if [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true) != installed ]]; then
      echo "$package"
    fi
  done
}

run_logged() {
  local what=$1
  shift
  printf '\n== %s: %s\n' "$what" "$*" >>"$log"
  "$@" >>"$log" 2>&1 </dev/null
}

fail_with_log() {
  tail -n 25 "$log" >&2
  die "$1; the end of $log is above"
}

install_packages() {
  if [[ ${TESSERA_SKIP_APT:-} == 1 ]]; then
    say "TESSERA_SKIP_APT=1: not looking at Debian packages"
    return
  fi
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    die "this machine has no apt. Provide the equivalents of: ${apt_packages[*]}; then set TESSERA_SKIP_APT=1"
  fi

  local missing
  mapfile -t missing < <(missing_packages "${apt_packages[@]}")
  if ((${#missing[@]} == 0)); then return; fi

  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      die "Debian packages are missing, and this is neither root nor has sudo. Have an administrator run:" \
        "apt-get install --no-install-recommends ${missing[*]}"
    as_root=(sudo)
  fi
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
    apt-get -y -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)

  say "installing Debian packages, for building and testing (log: ${log#"$repository"/}):"
  printf '    %s\n' "${missing[*]}"
  # A fresh machine has no package lists, an old one stale ones: the first shows in a simulation, the second by failing.
  if ! apt-get -s --no-install-recommends install "${missing[@]}" >/dev/null 2>&1; then
    run_logged "package lists" "${apt[@]}" update || fail_with_log "apt-get update failed"
  fi
  if ! run_logged "packages" "${apt[@]}" install --no-install-recommends "${missing[@]}"; then
    say "the installation failed; trying again with fresh package lists"
    run_logged "package lists" "${apt[@]}" update || fail_with_log "apt-get update failed"
    run_logged "packages" "${apt[@]}" install --no-install-recommends "${missing[@]}" ||
      fail_with_log "apt-get install failed"
  fi
  mapfile -t missing < <(missing_packages "${missing[@]}")
  if ((${#missing[@]} > 0)); then fail_with_log "apt-get succeeded, yet these are not installed: ${missing[*]}"; fi
}

# --- LibTorch --------------------------------------------------------------------------------------------------------

check_libtorch() {
  local folder=$1 file header version
  [[ -d $folder ]] || die "$2: expected LibTorch's folder, found no folder at '$folder'"
  for file in include/ATen/ATen.h lib/libtorch_cpu.so; do
    [[ -f $folder/$file ]] || die "$2: expected LibTorch's folder, found no $file in '$folder'"
  done
  header=$folder/include/torch/headeronly/version.h
  version=$(awk '$2 ~ /^TORCH_VERSION_(MAJOR|MINOR|PATCH)$/ {printf "%s%s", separator, $3; separator = "."}' "$header" \
    2>/dev/null || true)
  [[ $version == "${torch_version%.*}".* ]] ||
    die "$2: expected LibTorch ${torch_version%.*}, found version '${version:-unknown}' in '$folder'"
}

venv_libtorch() { printf '%s\n' "$venv"/lib/python3*/site-packages/torch; }

venv_is_complete() { [[ -f $marker && $(<"$marker") == "${pip_packages[*]}" && -d $(venv_libtorch) ]]; }

install_libtorch() {
  if venv_is_complete; then return; fi
  if [[ -e $venv ]]; then
    say "removing ${venv#"$repository"/}: it is half-finished or holds other versions"
    rm -rf -- "$venv"
  fi
  say "installing LibTorch into ${venv#"$repository"/} (550 MB to download, 1.3 GB on disk):"
  printf '    %s\n' "${pip_packages[*]}"
  run_logged "virtual environment" python3 -m venv "$venv" || fail_with_log "python3 -m venv failed"
  # --no-deps: the package's own requirements are 4 GB of GPU libraries that a CPU build never loads.
  run_logged "LibTorch" "$venv/bin/python" -m pip install --no-input --progress-bar off --no-deps --no-compile \
    --only-binary :all: "${pip_packages[@]}" || fail_with_log "pip install failed"
  check_libtorch "$(venv_libtorch)" "the PyPI package torch"
  local unresolved
  unresolved=$(ldd "$(venv_libtorch)/lib/libtorch_cpu.so" | grep 'not found' || true)
  [[ -z $unresolved ]] || die "libtorch_cpu.so lacks libraries that it loads: $unresolved"
  printf '%s' "${pip_packages[*]}" >"$marker"
}

# ---------------------------------------------------------------------------------------------------------------------

main() {
  case ${1:-} in
    --print-libtorch)
      if [[ -n ${TESSERA_LIBTORCH:-} ]]; then
        check_libtorch "$TESSERA_LIBTORCH" TESSERA_LIBTORCH
        (cd -- "$TESSERA_LIBTORCH" && pwd)
      else
        venv_is_complete || die "LibTorch is not installed yet: run scripts/setup.sh"
        venv_libtorch
      fi
      return
      ;;
    --help | -h) print_help "$0"; return ;;
    '') ;;
    *) die "unknown option '$1'; see --help" ;;
  esac

  if [[ -n ${TESSERA_LIBTORCH:-} ]]; then
    check_libtorch "$TESSERA_LIBTORCH" TESSERA_LIBTORCH
  else
    apt_packages+=(python3-venv)
  fi
  mkdir -p -- "$deps"
  # Two calls at once would unpack into the same folder: the second waits for the first.
  exec 9>"$deps/lock"
  flock 9
  install_packages
  if [[ -z ${TESSERA_LIBTORCH:-} ]]; then install_libtorch; fi
  say "everything is in place"
}

main "$@"
