"""The Gradio app: what people see and touch. It computes nothing itself; see ``mask2kan``.

Gradio reads the environment when it is imported, so telemetry is switched off before.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
