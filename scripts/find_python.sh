#!/bin/sh
# Prints the path of a Python >= 3.12 that can make virtual environments. PYTHON=... is tried alone if set.
# Each candidate is run, not looked up: a pyenv shim may exist and still answer with an error.
usable() {
    "$1" -c 'import sys, ensurepip, venv
if sys.version_info < (3, 12): raise SystemExit(1)
print(sys.executable)' 2>/dev/null
}

if [ -n "$PYTHON" ]; then
    usable "$PYTHON" && exit 0
    echo "PYTHON=$PYTHON is not a Python >= 3.12 with the venv and ensurepip modules" >&2
    exit 1
fi

for name in python3.12 python3.13 python3 python3.14 python; do
    usable "$name" && exit 0
done
for root in "$PYENV_ROOT" "$(pyenv root 2>/dev/null)" "$HOME/.pyenv"; do
    for path in "$root"/versions/3.12*/bin/python "$root"/versions/3.1[3-9]*/bin/python; do
        usable "$path" && exit 0
    done
done
for path in /usr/bin/python3.12 /usr/bin/python3.13 /usr/bin/python3 /usr/local/bin/python3 /opt/homebrew/bin/python3; do
    usable "$path" && exit 0
done

echo "no Python >= 3.12 (with the venv module) was found; install one, or name it: make PYTHON=/path/to/python" >&2
exit 1
