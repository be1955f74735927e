"""The page of one patient: the image as the model got it, a map over it, nothing from elsewhere."""

import base64
import html
import io
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cohortium.client.explaining import reasons
from cohortium.client.patient_page import ADDS, BANNER, page
from cohortium.common.arrays import flatten
from cohortium.common.models.building import study_module
from cohortium.common.study import load_study

Floats = NDArray[np.float32]
EXAMPLES = Path(__file__).parents[2] / "examples"


def drawn() -> tuple[str, Floats, Floats]:
    """A page, and the image and the map of which it is."""
    study = load_study(EXAMPLES / "radiographs" / "study.toml")
    (block,) = study.layout.blocks
    patient = np.ones(study.layout.inputs, np.float32)
    values = np.linspace(-1, 1, block.stop - block.first, dtype=np.float32)
    patient[block.first : block.stop] = values
    found = reasons(study, flatten(study_module(study)), patient, "grad_cam")
    shown = page(study, 3, "grad_cam", found, patient)
    heat = found.inputs[block.first : block.stop].reshape(block.shape).sum(axis=0)
    return shown, values.reshape(block.shape)[0], heat


def pictures(shown: str) -> list[NDArray[np.uint8]]:
    coded = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in coded]


def test_the_image_is_the_patients_and_the_map_is_brightest_where_the_model_looks() -> None:
    shown, image, heat = drawn()
    plain, over = pictures(shown)
    scale = len(plain) // len(image)
    np.testing.assert_allclose(plain[::scale, ::scale, 0], (image + 1) / 2 * 255, atol=1)
    assert heat.max() > 0
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    grey = (image[y, x] + 1) / 2 * 255
    expected = [0.25 * grey + 0.75 * colour for colour in ADDS]
    np.testing.assert_allclose(over[y * scale, x * scale], expected, atol=1)
    there = heat == 0
    np.testing.assert_array_equal(over[::scale, ::scale][there], plain[::scale, ::scale][there])


def test_the_page_asks_nothing_of_anybody_and_says_that_it_stays() -> None:
    shown, *_ = drawn()
    assert html.escape(BANNER) in shown
    for forbidden in ("<script", "http://", "https://", "<link", "@import", "url("):
        assert forbidden not in shown
    assert "default-src 'none'" in shown
