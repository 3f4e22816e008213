# Sourced by the other scripts: finds the project folder and keeps its environment in step with uv.lock.
unset CDPATH
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
# The tests start hundreds of processes: without a cache each would compile the package again.
unset PYTHONDONTWRITEBYTECODE

say() { printf 'anvyl: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# ensure_environment run|dev: install the dependencies to run, or also those to test.
ensure_environment() {
  local wanted
  wanted="$(cat "$root/uv.lock" "$root/pyproject.toml" | cksum) $venv"
  if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.anvyl-$1" 2>/dev/null)" = "$wanted" ]; then return; fi
  drop_unusable_environment
  if usable uv; then
    sync_environment "$1" uv
  else
    sync_environment "$1" "$venv/bin/uv"
  fi
  printf '%s\n' "$wanted" >"$venv/.anvyl-run"
  if [ "$1" = dev ]; then cp "$venv/.anvyl-run" "$venv/.anvyl-dev"; fi
}

# An environment holds absolute paths: a copied or moved one runs the code of the wrong folder.
drop_unusable_environment() {
  if [ ! -d "$venv" ]; then return; fi
  if [ -x "$venv/bin/python" ] && grep -qF -- "$venv" "$venv/bin/activate" 2>/dev/null; then return; fi
  say "the environment in $venv cannot be used here, making it anew"
  rm -rf "$venv"
}

# uv before 0.6 does not have --no-default-groups; some version managers put a broken `uv` on PATH.
usable() { "$1" sync --help 2>/dev/null | grep -q -- --no-default-groups; }

sync_environment() {
  local python=$venv/bin/python uv=$2 arguments=(sync --frozen --quiet --compile-bytecode)
  if [ "$1" = run ]; then arguments+=(--inexact --no-default-groups); fi
  if [ ! -x "$python" ]; then python=$(find_python); fi
  if [ "$uv" = uv ]; then
    say "putting the locked packages into $venv with uv"
  else
    say "putting the locked packages into $venv with a plain venv (no uv on PATH)"
    own_uv
    python=$venv/bin/python
  fi
  if ! writable_cache "$uv"; then export UV_NO_CACHE=1; fi
  (
    cd "$root"
    unset VIRTUAL_ENV
    UV_PROJECT_ENVIRONMENT=$venv UV_PYTHON=$python UV_PYTHON_DOWNLOADS=never "$uv" "${arguments[@]}" >&2
  ) || die "the packages could not be installed; see the error above, check the network and try again"
}

writable_cache() {
  local cache
  cache=$("$1" cache dir 2>/dev/null) && mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ]
}

own_uv() {
  if [ -x "$venv/bin/uv" ]; then return; fi
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    local python
    python=$(find_python)
    ensure_venv_module "$python"
    "$python" -m venv --clear "$venv" >&2 || die "no virtual environment could be made in $venv"
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv >&2 ||
    die "pip could not install uv; check the network and try again"
}

find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11 python3.14; do
    if "$name" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys.executable)' 2>/dev/null; then
      return
    fi
  done
  die "Python 3.11 or newer is needed and none is on PATH: install one (Debian, Ubuntu: apt install python3)"
}

# Debian and Ubuntu put a part of `venv` into a separate package.
ensure_venv_module() {
  local package
  if "$1" -c 'import ensurepip, venv; ensurepip.version()' 2>/dev/null; then return; fi
  package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    die "this Python cannot make virtual environments: run \`sudo apt install $package\`, or install uv"
  fi
  say "installing $package with apt-get"
  apt_install "$package" || die "apt-get could not install $package; see the error above, or install uv"
}

# Never removes a package and never starts the service of a new one.
apt_install() (
  export DEBIAN_FRONTEND=noninteractive
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  apt-get update -qq >&2 || say "apt-get update failed, trying with the lists that are here"
  apt-get install -y -qq --no-install-recommends --no-remove "$@" >&2
)
