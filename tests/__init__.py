"""The tests mirror vidbench/; what spans several rooms lies here. ROOT is the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
