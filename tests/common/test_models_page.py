"""The page of models shows a document of every family that can be read as it stands."""

import re
import tomllib
from pathlib import Path

from pydantic import TypeAdapter

from cohortium.common.document import _tuples
from cohortium.common.models.options import NAMES, Model, ModelDocument

PAGE = Path(__file__).parent.parent.parent / "docs" / "models.md"


def test_every_family_has_an_example_that_can_be_read() -> None:
    texts = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    adapter: TypeAdapter[ModelDocument] = TypeAdapter(Model)
    read = [adapter.validate_python(_tuples(tomllib.loads(text)["model"])) for text in texts]
    assert {model.name for model in read} == set(NAMES)
