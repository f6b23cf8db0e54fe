"""What a wheel contains besides the package: notebooks, the demo's results, published numbers, scripts.

`pip` runs this while it builds, before vidbench is installed, so it imports nothing of vidbench."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

# as `system/share.py` reads them: below vidbench/share in a wheel, below the root of a checkout
SHARED = (
    "notebooks/*.ipynb",
    "assets/published.csv",
    "assets/*.sh",
    "assets/*.yaml",
    "assets/demo/**/*",
)


class WithShare(build_py):
    """Copy the package's modules, and what they share, into the folder of the build."""

    def run(self) -> None:
        """Build, then copy the shared files into the wheel."""
        super().run()
        if self.editable_mode:  # an editable install reads the checkout
            return
        share = Path(self.build_lib) / "vidbench" / "share"
        for file in (found for pattern in SHARED for found in Path().glob(pattern)):
            if file.is_file():
                (share / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, share / file)
