#!/usr/bin/env bash
# Everything the tests need, then lint, types and tests. Arguments go to pytest:
#   bash tests/run.sh                     all of it
#   bash tests/run.sh -m "not browser"    without a browser
#   bash tests/run.sh tests/engine -k rnp
#   bash tests/run.sh --slow              with the tests that take minutes; each has a short version among the others
# UNMASK_CHROMIUM names a browser to use instead of the one that would be found or installed.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

say() { echo "tests/run.sh: $*" >&2; }

# 1. The environment.
if [ ! -x .venv/bin/python ]; then
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        say "expected Python 3.11 or newer as python3, got $(python3 --version 2>&1 || echo none)"
        exit 1
    fi
    say "creating .venv"
    if ! python3 -m venv .venv; then
        rm -rf .venv
        say "expected python3 with the venv module (Debian: apt-get install python3-venv)"
        exit 1
    fi
fi
python=.venv/bin/python

# 2. The packages, unless these very requirements are installed already.
stamp="$(cat requirements.txt tests/requirements.txt | cksum)"
if [ "$(cat .venv/.unmask-requirements 2>/dev/null)" != "$stamp" ]; then
    say "installing tests/requirements.txt (a large download the first time)"
    "$python" -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt || exit $?
    echo "$stamp" >.venv/.unmask-requirements
fi

# 3. A Chromium: the system's, else Debian's where that is possible, else Playwright's own.
system_chromium() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
find_chromium() {
    [ -n "${UNMASK_CHROMIUM:-}" ] && return
    UNMASK_CHROMIUM="$(system_chromium)"
    if [ -z "$UNMASK_CHROMIUM" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing chromium with apt-get"
        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium) \
            >/dev/null 2>&1 </dev/null || say "apt-get could not install chromium"
        UNMASK_CHROMIUM="$(system_chromium)"
    fi
    if [ -n "$UNMASK_CHROMIUM" ]; then
        export UNMASK_CHROMIUM
        return
    fi
    unset UNMASK_CHROMIUM
    say "looking for Playwright's own Chromium, or downloading it"
    "$python" -m playwright install chromium >/dev/null 2>&1 ||
        say "no Chromium could be installed; install one, or run with -m 'not browser'"
}
case "$*" in
    *"not browser"*) ;;
    *) find_chromium ;;
esac

# 4. The checks; the exit code is that of the first one that failed.
# Small tensors gain nothing from many threads, and tests start worker processes of their own.
cores="$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores < 4 ? cores : 4))}"
status=0
check() {
    "$python" -m "$@"
    local code=$?
    if [ "$code" != 0 ] && [ "$1" != pytest ]; then say "$1 failed; the tests run all the same"; fi
    if [ "$status" = 0 ]; then status=$code; fi
}
check ruff check .
check mypy
check pytest "$@"
exit "$status"
