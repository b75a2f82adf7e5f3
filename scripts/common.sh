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

# Processors that can be kept busy: those that nproc counts, or the quota of a control group around this shell, rounded
# up, where that is less. nproc knows nothing of quotas, by which containers are given their share of a large machine.
usable_processors() {
  local processors hierarchy controllers group mount quota period
  processors=$(nproc)
  if [[ ! -r /proc/self/cgroup ]]; then echo "$processors"; return; fi
  while IFS=: read -r hierarchy controllers group; do
    case ,$controllers, in
      ,,) mount=/sys/fs/cgroup ;;
      *,cpu,*) mount=/sys/fs/cgroup/$controllers ;;
      *) continue ;;
    esac
    # A container may see its own group as the root of the mount, so the root is looked at in any case.
    while :; do
      quota=max period=100000
      if [[ -r $mount$group/cpu.max ]]; then
        read -r quota period <"$mount$group/cpu.max" || true
      elif [[ -r $mount$group/cpu.cfs_quota_us ]]; then
        quota=$(<"$mount$group/cpu.cfs_quota_us") period=$(<"$mount$group/cpu.cfs_period_us")
      fi
      if [[ $quota =~ ^[0-9]+$ && $period =~ ^[1-9][0-9]*$ ]]; then
        local allowed=$(((quota + period - 1) / period))
        if ((allowed < 1)); then allowed=1; fi
        if ((allowed < processors)); then processors=$allowed; fi
      fi
      [[ -n $group && $group != / ]] || break
      group=${group%/*}
    done
  done </proc/self/cgroup
  echo "$processors"
}

# Compile jobs: one a core, but no more than fit at 2 GiB each (LibTorch's headers take most of that).
compile_jobs() {
  if [[ -n ${TESSERA_JOBS:-} ]]; then
    [[ $TESSERA_JOBS =~ ^[1-9][0-9]*$ ]] || die "TESSERA_JOBS must be a positive number, found '$TESSERA_JOBS'"
    echo "$TESSERA_JOBS"
    return
  fi
  local cores by_memory
  cores=$(usable_processors)
  by_memory=$(($(available_memory_mib) / 2048))
  if ((by_memory < 1)); then by_memory=1; fi
  echo $((cores < by_memory ? cores : by_memory))
}
