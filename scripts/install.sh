#!/bin/sh
# Makes the virtual environment of `make install`. Needs Python 3.11 or 3.12 with venv; no root.
set -eu
"$PYTHON" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 12)))' || {
    echo "Dianda needs Python 3.11 or 3.12. Run: make install PYTHON=python3.12" >&2
    exit 1
}
if "$PYTHON" -c 'import torch' 2>/dev/null; then
    # A torch of the machine's own (ROCm, CUDA): the environment sees it, and pip must not replace it.
    echo "Using the torch that $PYTHON has already."
    "$PYTHON" -m venv --system-site-packages "$VENV"
    "$PYTHON" -c 'import torch; print("torch==" + torch.__version__)' > "$VENV/torch.txt"
    sed '/^torch==/d' constraints.txt > "$VENV/constraints.txt"
    cat "$VENV/torch.txt" >> "$VENV/constraints.txt"
else
    "$PYTHON" -m venv "$VENV"
    cp constraints.txt "$VENV/constraints.txt"
    echo "Installing torch (constraints.txt pins it) …"
    "$VENV/bin/pip" install --quiet -c "$VENV/constraints.txt" torch
fi
echo "Installing Dianda and its libraries (a few minutes the first time) …"
"$VENV/bin/pip" install --quiet -c "$VENV/constraints.txt" -e ".[api,ml,embedded,gemma3-270m,s3,test]"
