"""What the stage does that no smaller part can show."""
import numpy as np
import pytest

from jaxaug.core import files
from jaxaug.data import images
from jaxaug.study.stages import data


@pytest.mark.parametrize('crop, resize', [(48, 32), (32, 48), (None, 24),
                                          (40, None)])
def test_crop_and_resize_happen_once(tmp_path, crop, resize):
  pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
  labels = np.arange(40) % 2
  np.savez(tmp_path / 'a.npz', x_train=pixels, y_train=labels)
  folder = files.folder(tmp_path / 'data', 'x')
  data.run(folder, seed=0, source='npz', path=str(tmp_path / 'a.npz'),
           crop=crop, resize=resize)
  made = data.read(folder)
  expected = images.fit_all(pixels, resize, crop)
  np.testing.assert_array_equal(made.train.images, expected[made.train.index])
  np.testing.assert_array_equal(made.test.images, expected[made.test.index])
