"""Lock files in the forms that people keep: the same versions of torch and lm-eval in each."""

from __future__ import annotations

SHA = "0123456789abcdef0123456789abcdef01234567"
GIT = f"git+https://github.com/EleutherAI/lm-evaluation-harness@{SHA}"
REQUIREMENTS = f"""\
# made by pip freeze
--index-url https://host/simple
torch==2.13.0+cpu ; python_version >= "3.9" --hash=sha256:00
-e {GIT}#egg=lm_eval
numpy @ file:///wheels/numpy-2.0-py3-none-any.whl
typing_extensions===4.1 \\
    --hash=sha256:11
"""
UV = f"""\
version = 1
[[package]]
name = "torch"
version = "2.13.0"
source = {{ registry = "https://host/simple" }}
[[package]]
name = "lm-eval"
version = "0.4.13"
source = {{ git = "https://github.com/EleutherAI/lm-evaluation-harness?rev=main#{SHA}" }}
[[package]]
name = "old"
version = "1.0"
resolution-markers = ["python_full_version < '3.9'"]
[[package]]
name = "old"
version = "2.0"
resolution-markers = ["python_full_version >= '3.9'"]
[[package]]
name = "project"
version = "0.1"
source = {{ editable = "." }}
"""
CONDA = f"""\
name: scanproof
dependencies:
  - python=3.11.9=h955ad1f_0
  - conda-forge::openssl=3.0
  - pip:
      - torch==2.13.0
      - lm_eval @ {GIT}
"""
