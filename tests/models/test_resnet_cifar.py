"""ResNet-32: the published source model gets right what it should, and other files are refused in one line."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from msmeta.errors import DataError
from msmeta.models.resnet_cifar import load_source

SHARED = Path(__file__).parents[3] / "shared/data"
WEIGHTS = Path(os.environ.get("MSMETA_SOURCE_WEIGHTS", SHARED / "weights/tinyimagenet-resnet32.pth.tar"))
IMAGES = Path(os.environ.get("MSMETA_SOURCE_IMAGES", SHARED / "raw/tinyimagenet-val-1000.tar.gz"))
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.skipif(not (WEIGHTS.exists() and IMAGES.exists()), reason="the source model is not at hand")
def test_source_model_gets_477_of_1000_validation_images_right():
    """Classes in the order of their WordNet identifiers; images are 32x32 already."""
    model, params = load_source(WEIGHTS)
    with tarfile.open(IMAGES) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive if m.isfile() and m.name.endswith(".webp")}
    names = sorted(files)
    classes = sorted({name.split("/")[1] for name in names})
    assert model.way == len(classes) == 200 and len(names) == 1000
    images = np.stack([np.asarray(Image.open(io.BytesIO(files[name])).convert("RGB")) for name in names])
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]
    x = x / torch.tensor(DEVIATION)[:, None, None]
    y = torch.tensor([classes.index(name.split("/")[1]) for name in names])
    with torch.no_grad():
        logits, features = model(params, x)
    assert (logits.argmax(1) == y).sum().item() == 477
    assert [tuple(f.shape[1:]) for f in features] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert model.channels == (16, 32, 64)


def test_a_wrong_source_file_is_one_line(tmp_path):
    path = tmp_path / "model.pth.tar"
    with pytest.raises(DataError, match="cannot read the source model .*: No such file"):
        load_source(path)
    for content in (b"no checkpoint", None):
        path.write_bytes(content) if content else torch.save({"state_dict": {"fc.weight": torch.zeros(2)}}, path)
        with pytest.raises(DataError, match="is not the source model") as error:
            load_source(path)
        assert "\n" not in str(error.value)
