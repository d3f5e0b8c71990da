import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxaug.core import errors
from jaxaug.data import images, pixels


def noise(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(path, depth, colour, rows, extra=b''):
  """Writes a PNG by hand: kinds that Pillow itself does not write."""
  def chunk(name, data):
    return (struct.pack('>I', len(data)) + name + data
            + struct.pack('>I', zlib.crc32(name + data)))
  header = struct.pack('>IIBBBBB', 4, len(rows), depth, colour, 0, 0, 0)
  path.write_bytes(
      b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + extra
      + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + r for r in rows)))
      + chunk(b'IEND', b''))
  return path


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('ending', ['png', 'bmp', 'webp'])
def test_lossless_files_decode_to_their_pixels(tmp_path, ending, channels):
  if ending == 'webp' and channels == 1:
    pytest.skip('WebP has no grey')
  pixels = noise(7, 5, channels)
  file = tmp_path / f'x.{ending}'
  Image.fromarray(pixels.squeeze()).save(file, lossless=True)
  np.testing.assert_array_equal(images.decode(file), pixels)
  assert images.look(file)[:3] == pixels.shape


def test_jpeg_decodes_and_exif_orientation_is_applied(tmp_path):
  pixels = np.zeros((16, 32, 3), np.uint8)
  pixels[:, :16] = 255
  exif = Image.Exif()
  exif[0x112] = 6  # Stored lying; to be shown turned clockwise.
  Image.fromarray(pixels).save(tmp_path / 'x.jpg', exif=exif, quality=95)
  decoded = images.decode(tmp_path / 'x.jpg')
  assert decoded.shape == (32, 16, 3)
  assert decoded[:16].mean() > 250 and decoded[16:].mean() < 5
  for ending in 'jpg', 'png', 'webp', 'tif':
    file = tmp_path / f'x.{ending}'
    Image.fromarray(pixels).save(file, exif=exif)
    assert images.look(file)[:3] == images.decode(file).shape == (32, 16, 3)


def make_16_bit_grey(path):
  Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4)).save(path)


def make_apng(path):
  frames = [Image.fromarray(noise(4, 4, 3, seed=s)) for s in range(2)]
  frames[0].save(path, save_all=True, append_images=frames[1:])


def make_webp_animation(path):
  frames = [Image.fromarray(noise(4, 4, 3, seed=s)) for s in range(2)]
  frames[0].save(path, 'WEBP', save_all=True, append_images=frames[1:])


@pytest.mark.parametrize('make, message', [
    (make_16_bit_grey, '16 bits a channel.*depth='),
    (lambda p: png(p, 16, 2, [bytes(24)] * 4), '16 bits a channel'),
    (lambda p: Image.fromarray(noise(4, 4, 4)).save(p), 'transparent parts'),
    (lambda p: Image.fromarray(noise(4, 4, 2)).save(p), 'transparent parts'),
    (lambda p: Image.fromarray(noise(4, 4).astype(np.int32)).save(p, 'TIFF'),
     '32-bit'),
    (lambda p: Image.fromarray(noise(4, 4, 3)).convert('LAB').save(p, 'TIFF'),
     'mode LAB'),
    (lambda p: png(p, 8, 2, [bytes(12)] * 4,
                   struct.pack('>I', 6) + b'tRNS' + bytes(6)
                   + struct.pack('>I', zlib.crc32(b'tRNS' + bytes(6)))),
     'transparent'),
    (lambda p: Image.fromarray(np.zeros((10001, 10000), np.uint8)).save(
        p, compress_level=1), '10001x10000 pixels, above 100 megapixels'),
    (make_apng, 'animated'),
    (make_webp_animation, 'animated'),
    (lambda p: Image.fromarray(noise(4, 4)).save(p, 'ICO'), 'none of PNG'),
    (lambda p: p.write_bytes(b''), 'none of PNG'),
    (lambda p: p.write_text('not an image'), 'none of PNG'),
    (lambda p: None, 'no such file'),
])
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_other_kinds_are_refused_in_one_line(tmp_path, make, message):
  file = tmp_path / 'x.png'
  make(file)
  with pytest.raises(errors.InputError, match=message) as e:
    images.decode(file)
  assert str(file) in str(e.value) and '\n' not in str(e.value)
  look = images.look(file)
  assert look.wrong and str(images.refusal(file, look.wrong, look.option)
                            ) == str(e.value)


def same(path, expected, channels, mode, **how):
  decoded = images.decode(path, **how)
  assert images.look(path, **how) == (*decoded.shape, mode, '', '')
  assert decoded.shape[2] == channels and decoded.dtype == np.uint8
  np.testing.assert_array_equal(decoded, np.asarray(expected).reshape(
      decoded.shape))


def test_palettes_cmyk_and_1_bit_become_grey_or_rgb(tmp_path):
  file = tmp_path / 'x.png'
  coloured = Image.fromarray(noise(4, 6, 3)).quantize(4)
  coloured.save(file)
  same(file, coloured.convert('RGB'), 3, 'palette')
  grey = Image.fromarray(noise(4, 6) // 128 * 200).quantize(4)
  grey.save(file)
  same(file, grey.convert('L'), 1, 'palette')
  Image.fromarray(noise(4, 6) > 90).save(file)
  same(file, (noise(4, 6) > 90) * 255, 1, '1-bit')
  cmyk = Image.fromarray(noise(4, 6, 3)).convert('CMYK')
  cmyk.save(file, 'TIFF')
  same(file, noise(4, 6, 3), 3, 'CMYK')


def test_transparent_images_as_the_option_says(tmp_path):
  file = tmp_path / 'x.png'
  pixels = noise(4, 6, 4)
  pixels[0, :, 3], pixels[1, :, 3] = 0, 255
  Image.fromarray(pixels).save(file)
  share = pixels[..., 3:] / 255
  for alpha, ground in (('white', 255), ('black', 0)):
    decoded = images.decode(file, alpha=alpha)
    exact = pixels[..., :3] * share + ground * (1 - share)
    assert abs(decoded - exact).max() <= 1
    assert (decoded[0] == ground).all()
    np.testing.assert_array_equal(decoded[1], pixels[1, :, :3])
  same(file, pixels[..., :3], 3, 'transparent', alpha='drop')
  both = noise(4, 6, 2, seed=1)
  Image.fromarray(both).save(file)
  same(file, both[..., 0], 1, 'transparent', alpha='drop')
  palette = Image.fromarray(noise(4, 6, 3)).quantize(4)
  palette.save(file, transparency=0)
  decoded = images.decode(file, alpha='white')
  assert (decoded[np.asarray(palette) == 0] == 255).all()


def test_16_bit_images_lose_their_lower_half(tmp_path):
  file, pixels = tmp_path / 'x.png', noise(4, 4)
  Image.fromarray(pixels.astype(np.uint16) * 257).save(file)
  same(file, pixels, 1, '16-bit', depth='scale')
  rgb = noise(4, 4, 3)
  png(file, 16, 2, [b''.join(bytes([v, 255 - v]) for v in row.ravel())
                    for row in rgb])
  same(file, rgb, 3, '16-bit', depth='scale')
  Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / 'x.tif')
  same(tmp_path / 'x.tif', pixels, 1, '16-bit', depth='scale')
  for name, kind, values in (('x.pgm', b'P5', pixels), ('x.ppm', b'P6', rgb)):
    deep = (values.astype(np.uint16) * 257).astype('>u2').tobytes()
    (tmp_path / name).write_bytes(kind + b' 4 4 65535\n' + deep)
    with pytest.raises(errors.InputError, match='16 bits a channel.*depth='):
      images.decode(tmp_path / name)
    channels = values.shape[2] if values.ndim > 2 else 1
    same(tmp_path / name, values, channels, '16-bit', depth='scale')
    (tmp_path / name).write_bytes(kind + b' 4 4 255\n' + values.tobytes())
    same(tmp_path / name, values, channels, {1: 'grey', 3: 'RGB'}[channels])


def test_of_an_animated_gif_the_first_picture(tmp_path):
  frames = [Image.fromarray(noise(4, 6, seed=s) // 64 * 64) for s in range(2)]
  file = tmp_path / 'x.gif'
  frames[0].save(file, save_all=True, append_images=frames[1:])
  same(file, frames[0], 1, 'animated GIF, its first picture')
  frames[1].save(file)
  same(file, frames[1], 1, 'palette')


def test_bytes_are_as_good_as_a_file(tmp_path):
  file = tmp_path / 'x.png'
  Image.fromarray(noise(4, 6, 3)).save(file)
  same(file.read_bytes(), noise(4, 6, 3), 3, 'RGB')
  with pytest.raises(errors.InputError, match='in a.tar: damaged'):
    images.decode(b'', name='in a.tar')


@pytest.mark.parametrize('ending', ['png', 'jpg', 'webp', 'bmp', 'gif', 'tif'])
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path, ending):
  file = tmp_path / f'x.{ending}'
  Image.fromarray(noise(24, 24, 3)).save(file)
  whole, data = images.decode(file), file.read_bytes()
  refused = 0
  for size in range(0, len(data), 41):
    file.write_bytes(data[:size])
    try:
      np.testing.assert_array_equal(images.decode(file), whole)
    except errors.InputError as e:
      assert str(file) in str(e) and '\n' not in str(e)
      refused += 1
  assert refused >= len(data) // 41 - 1


def test_a_changed_byte_in_a_png_is_noticed(tmp_path):
  file = tmp_path / 'x.png'
  Image.fromarray(noise(24, 24, 3)).save(file)
  whole, data = images.decode(file), file.read_bytes()
  for place in range(8, len(data), 23):
    file.write_bytes(data[:place] + bytes([data[place] ^ 16])
                     + data[place + 1:])
    try:
      np.testing.assert_array_equal(images.decode(file), whole)
    except errors.InputError:
      pass


def test_fit_crops_the_centre_before_it_resizes():
  pixels = np.zeros((10, 20, 3), np.uint8)
  pixels[2:8, 7:13] = 200
  assert (images.fit(pixels, crop=6) == 200).all()
  resized = images.fit(pixels, resize=(9, 4), crop=(6, 6))
  assert resized.shape == (9, 4, 3) and (resized == 200).all()
  assert images.fit(pixels, crop='square').shape == (10, 10, 3)
  assert images.fit(pixels[..., :1], resize=5).shape == (5, 5, 1)
  assert images.fit(pixels) is pixels


def test_resize_is_antialiased():
  stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))[..., None]
  small = images.fit(stripes, resize=8)[1:-1, 1:-1]
  assert abs(small.astype(int) - 127).max() < 12


@pytest.mark.parametrize('size', [0, -3, 2.5, (4, 0), (1, 2, 3), '64', 'big'])
@pytest.mark.parametrize('key', ['resize', 'crop'])
def test_fit_refuses_what_is_no_size(key, size):
  with pytest.raises(errors.InputError, match=f'config.data.{key}'):
    images.fit(noise(8, 8, 1), **{key: size})


def test_fit_refuses_a_crop_larger_than_the_image():
  with pytest.raises(errors.InputError, match='9x4 is larger than a.png'):
    images.fit(noise(8, 8, 1), crop=(9, 4), where='a.png')


def test_fit_all_lists_sizes_and_makes_grey_rgb():
  grey, rgb = noise(4, 6, 1), noise(4, 6, 3)
  both = images.fit_all([grey, rgb])
  np.testing.assert_array_equal(both[0], np.repeat(grey, 3, -1))
  np.testing.assert_array_equal(both[1], rgb)
  assert images.fit_all([grey, grey]).shape == (2, 4, 6, 1)
  assert images.fit_all(noise(5, 4, 6)).shape == (5, 4, 6, 1)
  assert images.fit_all(noise(5, 4, 6), resize=3).shape == (5, 3, 3, 1)
  with pytest.raises(errors.InputError,
                     match=r'here: .*4x6 \(2\), 5x5 \(1\).*resize'):
    images.fit_all([rgb, noise(5, 5, 3), grey], where='here')


def test_to_uint8_undoes_the_scaling_of_every_value():
  values = np.arange(256, dtype=np.uint8)
  scaled = values.astype(np.float32) / 127.5 - 1
  np.testing.assert_array_equal(pixels.to_uint8(scaled), values)
  np.testing.assert_array_equal(pixels.to_uint8([-9, 9]), [0, 255])


def test_grid_and_save_png(tmp_path):
  pixels = noise(5, 4, 6, 3)
  grid = images.grid(pixels, columns=3, pad=1)
  assert grid.shape == (2 * 5 + 1, 3 * 7 + 1, 3)
  np.testing.assert_array_equal(grid[6:10, 8:14], pixels[4])
  assert (grid[6:10, 15:21] == 255).all() and (grid[0] == 255).all()
  for image in (grid, grid[..., :1]):
    images.save_png(tmp_path / 'new' / 'x.png', image)
    np.testing.assert_array_equal(images.decode(tmp_path / 'new' / 'x.png'),
                                  image)


def test_digest_sees_values_order_shape_and_type():
  pixels = noise(6, 4, 4, 1)
  others = [pixels[::-1], pixels.reshape(3, 8, 4, 1), pixels.astype(np.int16),
            pixels ^ np.eye(1, 96, dtype=np.uint8).reshape(pixels.shape)]
  found = [images.digest(a) for a in [pixels, *others]]
  assert len(set(found)) == 5
  assert images.digest(pixels.copy(order='F')) == found[0]


def test_row_hashes_find_exact_pixels_and_are_fast():
  pixels = noise(60000, 28, 28, 1)
  pixels[700] = pixels[5]
  start = time.time()
  hashes = images.row_hashes(pixels)
  assert time.time() - start < 5
  assert hashes[700] == hashes[5] and len(np.unique(hashes)) == 59999
  assert images.row_hashes(pixels[:0]).shape == (0,)
