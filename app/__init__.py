"""The Gradio app: what people see and touch. It computes nothing itself; see ``mask2kan``.

Gradio reads its settings from the environment when it is imported, so what must hold for every
start (nothing is sent anywhere) is set here, before any module of the package imports it.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
