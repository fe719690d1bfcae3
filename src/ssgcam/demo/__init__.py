"""The demo: a real network on real photos, pictures and numbers, with what pip installs alone."""

from ssgcam.demo.run import run_demo

__all__ = ["run_demo"]
