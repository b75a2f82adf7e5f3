# Sourced by the other scripts: where the repository is, messages, and how many jobs the machine can carry.
# shellcheck shell=bash

# shellcheck disable=SC2034
repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export LC_ALL=C.UTF-8

say() { printf '%s: %s\n' "$(basename -- "$0")" "$*"; }

die() {
  printf '%s: error: %s\n' "$(basename -- "$0")" "$*" >&2
  exit 1
}

# Prints the comment block at the head of a script: its help stands in one place.
print_help() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$1"; }

# python_environment FOLDER PACKAGES WHAT: a Python environment with those packages, made where it is not complete.
python_environment() {
  local folder=$1 packages=$2 what=$3
  local marker=$folder/tessera-complete  # a copy of the list of packages, written last
  if cmp -s -- "$packages" "$marker"; then return; fi
  say "installing $what into ${folder#"$repository"/} (3 GB to download, 5 GB on disk)"
  rm -rf -- "$folder"
  python3 -m venv "$folder" || die "python3 -m venv failed; on Debian the package python3-venv provides it"
  "$folder/bin/python" -m pip install --no-input --progress-bar off --quiet -r "$packages"
  cp -- "$packages" "$marker"
}

# Memory that may be used, in MiB: what the machine has free, or what the control group leaves, whichever is less.
available_memory_mib() {
  local free_mib limit
  free_mib=$(awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  if [[ $limit =~ ^[0-9]+$ ]] && ((limit / 1048576 < free_mib)); then
    free_mib=$((limit / 1048576))
  fi
  echo "$free_mib"
}

# Compile jobs: one a core, but no more than fit at 2 GiB each (LibTorch's headers take most of that).
compile_jobs() {
  if [[ -n ${TESSERA_JOBS:-} ]]; then
    [[ $TESSERA_JOBS =~ ^[1-9][0-9]*$ ]] || die "TESSERA_JOBS must be a positive number, found '$TESSERA_JOBS'"
    echo "$TESSERA_JOBS"
    return
  fi
  local cores by_memory
  cores=$(nproc)
  by_memory=$(($(available_memory_mib) / 2048))
  if ((by_memory < 1)); then by_memory=1; fi
  echo $((cores < by_memory ? cores : by_memory))
}
