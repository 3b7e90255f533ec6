"""Write tinytorch/data/digits.npz, the digits that need no download.

    python scripts/make_digits.py

The images come with scikit-learn (a development dependency): they are the test part of "Optical
Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning
Repository, https://doi.org/10.24432/C50P49, licensed CC BY 4.0.

Keys: images, uint8 (1797, 8, 8), values 0 to 16 (ink); labels, uint8 (1797,), values 0 to 9.
"""

import io
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

PATH = Path(__file__).resolve().parent.parent / "tinytorch" / "data" / "digits.npz"


def digits_file() -> bytes:
    """The bytes of digits.npz; NumPy dates its members 1980, so each run gives the same ones."""
    digits = load_digits()
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, images=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8)
    )
    return buffer.getvalue()


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_bytes(digits_file())
    print(f"{PATH.name}: {PATH.stat().st_size} bytes")
