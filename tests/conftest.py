"""What all tests share: one thread for each process, so that the small networks of tests do not fight for two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.pop("RAY_ADDRESS", None)

from hypothesis import settings

settings.register_profile("murk", deadline=None)  # a test asserts no times: on a busy machine they say nothing
settings.load_profile("murk")
