# Sourced by the other scripts, from the root of the project. Makes .venv hold what the requirement files pin.
#
#   ready_environment            what the engine needs to run
#   ready_environment streaming  that, and what workers on Kafka and a ClickHouse server need
#   ready_environment chdb       that, and the ClickHouse engine that runs inside the process
#   ready_environment dev        all of it, and what the tests and checks need
#
# A stamp in .venv keeps the digest of what was installed, so that nothing happens when nothing changed.

ROOT=$PWD
VENV=$ROOT/.venv
PYTHON=$VENV/bin/python
UV=$VENV/bin/uv

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# A Python from 3.11 that can make virtual environments; those that the pinned packages are tested with come first.
find_python() {
    local candidate without_venv=''
    for candidate in ${WEIR_PYTHON:+"$WEIR_PYTHON"} python3 python3.13 python3.12 python3.11 python3.14 python; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
        if "$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
        without_venv=$candidate
    done
    if [ -n "$without_venv" ]; then
        fail "$without_venv cannot make virtual environments: install its venv package (Debian: python3-venv)"
    fi
    fail "no Python 3.11 or later found: install one, or name it in WEIR_PYTHON"
}

make_venv() {
    if [ -x "$PYTHON" ] && "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 &&
        { [ ! -e "$VENV/.weir-root" ] || [ "$(cat "$VENV/.weir-root")" = "$ROOT" ]; }; then
        return
    fi
    local python
    python=$(find_python)
    echo "setting up .venv with $("$python" --version)" >&2
    "$python" -m venv --clear "$VENV" || fail "could not make $VENV; see the message above"
}

# The tools that set up and build, at their pinned versions. Asks no registry if they are installed already.
install_tools() {
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-setup.txt ||
        fail "could not install uv and setuptools: the first set-up needs a way to the Python package registry"
}

# uv first; pip where uv cannot (pip reads the machine's own pip settings, such as a mirror, and uv does not).
install_pinned() {
    echo "installing $1" >&2
    # As pip does, it compiles what it installs: otherwise the first start of each process that may not write would.
    "$UV" pip install --quiet --compile-bytecode --python "$PYTHON" --require-hashes --requirement "$1" ||
        "$PYTHON" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement "$1" ||
        fail "could not install $1: the first set-up needs a way to the Python package registry"
}

# The packages are used from the source tree; `weir` on the environment's path starts them.
install_project() {
    local packages
    packages=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' "$ROOT" >"$packages/weir.pth"
    # A worker starts processes that load this file again, by another name.
    printf '#!%s\nimport sys\n\nfrom jobs.start import main\n\nif __name__ == "__main__":\n    sys.exit(main())\n' "$PYTHON" >"$VENV/bin/weir"
    chmod +x "$VENV/bin/weir"
    # Compiled once here: processes that may not write (PYTHONDONTWRITEBYTECODE) would compile them at each start.
    "$PYTHON" -m compileall -q schemas rating pipeline jobs
    printf '%s\n' "$ROOT" >"$VENV/.weir-root"
}

# What a set of requirements is known by, where each file holds the pins of those before it and more.
digest_of() {
    cat requirements.txt "$1" requirements-setup.txt scripts/environment.sh | cksum
}

ready_environment() {
    local wanted=requirements${1:+-$1}.txt file
    make_venv
    if [ "$(cat "$VENV/.weir-$wanted" 2>/dev/null || true)" = "$(digest_of "$wanted") $ROOT" ]; then
        return
    fi
    install_tools
    install_pinned "$wanted"
    install_project
    for file in requirements.txt requirements-streaming.txt requirements-chdb.txt requirements-dev.txt; do
        printf '%s' "$(digest_of "$file") $ROOT" >"$VENV/.weir-$file"
        [ "$file" != "$wanted" ] || break
    done
}
