"""Reading images: the same pixels as PaddleSeg's own reading, refusals by name, and which images a path means."""
from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.data import image_io, outputs
from paddleseg_ext.data.image_io import ImageItem, displayable, list_images, preprocess, read_image
from paddleseg_ext.errors import UserError


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_eight_bit_images_are_what_paddleseg_reads(tmp_path):
    color, gray = noise(9, 12, 3), noise(9, 12)
    for name, array in (('color.png', color), ('color.jpg', color), ('gray.png', gray), ('color.webp', color),
                        ('color.bmp', color), ('color.tif', color)):
        image = read_image(save(tmp_path / name, array))
        assert image.dtype == np.uint8 and image.shape == (9, 12, 3)
        assert (image == cv2.imread(str(tmp_path / name), cv2.IMREAD_COLOR)).all()
    assert (read_image(tmp_path / 'color.png')[..., ::-1] == color).all()
    assert (read_image(tmp_path / 'gray.png') == gray[..., None]).all()
    assert (read_image(tmp_path / 'gray.png', channels=1) == gray).all()


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, suffix):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / f'deep.{suffix}'
    cv2.imwrite(str(path), values)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.shape == (256, 256, 3)
    assert np.abs(image[..., 0] - values / 257.0).max() < 1
    color = noise(8, 9, 3, dtype=np.uint16)
    cv2.imwrite(str(path), color)
    assert np.abs(read_image(path) - color / 257.0).max() < 2


def test_transparency_is_dropped_with_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(image_io, '_WARNED', set())
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger('paddleseg_ext')
    logger.addHandler(handler)
    try:
        rgba = noise(6, 7, 4)
        for name in ('first.png', 'second.png'):
            assert (read_image(save(tmp_path / name, rgba))[..., ::-1] == rgba[..., :3]).all()
    finally:
        logger.removeHandler(handler)
    assert len(messages) == 1 and 'first.png has transparency, which is dropped, as in training' in messages[0]


def test_palettes_give_colours_and_exif_turns(tmp_path):
    picture = Image.fromarray(noise(6, 7) % 2)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.save(tmp_path / 'palette.png')
    colors = read_image(tmp_path / 'palette.png').reshape(-1, 3).tolist()
    assert set(map(tuple, colors)) == {(30, 20, 10), (50, 100, 200)}
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    save(tmp_path / 'turned.jpg', noise(8, 16, 3), exif=exif)
    assert read_image(tmp_path / 'turned.jpg').shape == (16, 8, 3)


def test_what_cannot_be_read_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / 'float.tif'), np.zeros((4, 5, 3), np.float32))
    with pytest.raises(UserError, match=r'float\.tif: its pixels are float32 \(shape \[4, 5, 3\]\).*16 bits.*Convert'):
        read_image(tmp_path / 'float.tif')
    with pytest.raises(UserError, match=r'missing\.png: no such file'):
        read_image(tmp_path / 'missing.png')
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(UserError, match=r'text\.png: cannot be read as an image'):
        read_image(tmp_path / 'text.png')


@pytest.mark.parametrize('suffix', ['png', 'jpg'])
def test_cut_off_files_are_refused_and_appended_bytes_are_not(tmp_path, suffix):
    path = save(tmp_path / f'photo.{suffix}', noise(64, 64, 3))
    content = path.read_bytes()
    expected = read_image(path)
    path.write_bytes(content + b'x' * 5000)  # as motion photos of phones have
    assert (read_image(path) == expected).all()
    path.write_bytes(content[:len(content) // 2])
    with pytest.raises(UserError, match=rf'photo\.{suffix}: cannot be read as an image \(corrupt, cut off'):
        read_image(path)


def test_other_numbers_of_channels(tmp_path):
    bands = noise(5, 6, 4, dtype=np.uint16)
    cv2.imwrite(str(tmp_path / 'bands.tif'), bands)
    image = read_image(tmp_path / 'bands.tif', channels=4)
    assert image.dtype == np.float32 and np.allclose(image, bands / 257.0)
    with pytest.raises(UserError, match=r'bands\.tif: it has 4 channels \(shape \[5, 6, 4\]\) and the model takes 5'):
        read_image(tmp_path / 'bands.tif', channels=5)
    assert displayable(image).shape == (5, 6, 3) and displayable(image).dtype == np.uint8
    assert (displayable(noise(5, 6)) == noise(5, 6)[..., None]).all()
    color = noise(5, 6, 3)
    assert (displayable(color) == color[..., ::-1]).all()


def test_preprocessing_equals_paddlesegs(tmp_path):
    from paddleseg.transforms import Compose, Normalize, Resize
    path = save(tmp_path / 'a.png', noise(20, 30, 3))
    compose = Compose([Resize(target_size=(16, 12)), Normalize()])
    pixels, trans_info = preprocess(read_image(path), compose)
    expected = compose({'img': str(path)})
    assert pixels.dtype == np.float32 and (pixels == expected['img']).all() and pixels.shape == (3, 12, 16)
    assert trans_info == [('resize', (20, 30))]
    with pytest.raises(UserError, match=r'the transforms cannot take an image of shape \[20, 30\]: ValueError'):
        preprocess(noise(20, 30), compose)


def test_a_transform_that_needs_a_label_is_named():
    class NeedsLabel:
        transforms = ()

        def __call__(self, data):
            return data['label']
    with pytest.raises(UserError, match="KeyError: 'label'.*A transform that needs a label cannot be in"):
        preprocess(noise(4, 4, 3), NeedsLabel())


@pytest.fixture
def folder(tmp_path):
    for name in ('b.jpg', 'a.png', 'sub/c d.PNG', 'sub/.hidden/e.png', '.f.png', 'out/label_ids/a.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / name, noise(4, 4, 3), format='PNG')
    (tmp_path / 'notes.txt').write_text('not an image')
    return tmp_path


def test_a_folder_is_searched_with_its_subfolders(folder):
    items = list_images(folder, leave_out=folder / 'out')
    assert [item.relative.as_posix() for item in items] == ['a.png', 'b.jpg', 'sub/c d.PNG']
    assert all(item.path.is_file() and item.label is None for item in items)
    assert len(list_images(folder)) == 4
    assert len(list_images(folder, leave_out=folder.parent)) == 4  # results above the images leave nothing out
    assert list_images(folder / 'a.png') == [ImageItem(folder / 'a.png', type(folder)('a.png'))]


def test_lists_keep_their_order_and_cannot_leave_the_output_folder(folder):
    listing = folder / 'list.txt'
    listing.write_text(f'b.jpg a.png\n\nsub/c d.PNG\nb.jpg a.png\n../{folder.name}/a.png\n{folder}/b.jpg\ngone.png\n')
    items = list_images(listing)
    assert [item.path.name for item in items] == ['b.jpg', 'c d.PNG', 'a.png', 'gone.png']
    assert items[0].label == folder / 'a.png' and items[1].label is None
    assert all(not item.relative.is_absolute() and '..' not in item.relative.parts for item in items)


def test_lists_of_another_machine_are_matched_from_their_end(folder):
    listing = folder / 'list.txt'
    for name in ('val/a.png', 'valannot/a.png', 'val/b.png'):
        (folder / name).parent.mkdir(exist_ok=True)
        save(folder / name, noise(4, 4, 3))
    line = '/SegNet/CamVid/val/{0}.png /SegNet/CamVid/valannot/{0}.png\n'
    listing.write_text(f'{line.format("gone")}{line.format("a")}{line.format("b")}{folder}/b.jpg\nval/a.png\n')
    gone, first, unlabelled, absolute = list_images(listing)
    assert first == ImageItem(folder / 'val/a.png', Path('val/a.png'), folder / 'valannot/a.png')
    assert unlabelled.path == folder / 'val/b.png'
    assert unlabelled.label == Path('/SegNet/CamVid/valannot/b.png')  # not the folder's own b of another kind
    assert absolute.path == folder / 'b.jpg'
    with pytest.raises(UserError, match='^/SegNet/CamVid/val/gone.png: no such file'):
        read_image(gone.path)
    listing.write_text('/elsewhere/x.png\n')
    with pytest.raises(UserError, match='^/elsewhere/x.png: no such file'):
        read_image(list_images(listing)[0].path)


def test_paths_without_images_are_refused(tmp_path):
    with pytest.raises(UserError, match='no such file or folder'):
        list_images(tmp_path / 'none')
    with pytest.raises(UserError, match=r'no images in it; images end in \.bmp'):
        list_images(tmp_path)
    (tmp_path / 'empty.txt').write_text('\n')
    with pytest.raises(UserError, match='no images in it; a list has one line'):
        list_images(tmp_path / 'empty.txt')
    (tmp_path / 'binary.dat').write_bytes(b'\xff\xfe\x00\x80')
    with pytest.raises(UserError, match=r'binary\.dat: neither an image .* nor a list file'):
        list_images(tmp_path / 'binary.dat')


def items_of(*names, root='/in'):
    return [ImageItem(Path(root) / name, Path(name)) for name in names]


def test_results_never_share_a_name():
    def names(*images):
        return [name.as_posix() for name in outputs.output_names(items_of(*images))]
    assert names('a.jpg', 'b.png', 's/a.jpg') == ['a.png', 'b.png', 's/a.png']
    assert names('a.jpg', 'a.png', 'b.png') == ['a.jpg.png', 'a.png.png', 'b.png']
    assert names('a.jpg', 'a.png', 'a.jpg.png') == ['a.jpg.png', 'a.png.png', 'a.jpg.png.png']
    assert names('A.jpg', 'a.png') == ['A.jpg.png', 'a.png.png']
    assert names('A.jpg', 'a.jpg') == ['A.jpg.png', 'a.jpg.png']
    with pytest.raises(UserError, match=r'/in/a\.jpg and /other/a\.jpg would both be written to a\.jpg\.png; predict'):
        outputs.output_names(items_of('a.jpg') + items_of('a.jpg', root='/other'))


def test_an_earlier_run_is_replaced_for_the_same_image_only(tmp_path):
    first = items_of('a.jpg', 'b.jpg')
    assert outputs.claim_outputs(first, tmp_path) == outputs.claim_outputs(first, tmp_path)
    with pytest.raises(UserError, match=r'a\.png is the result of /in/a\.jpg, and would be overwritten by .* /other/a'):
        outputs.claim_outputs(items_of('a.jpg', root='/other'), tmp_path)
    (tmp_path / 'label_ids').mkdir()
    (tmp_path / 'label_ids' / 'c.png').write_bytes(b'')
    with pytest.raises(UserError, match=r'c\.png is there already, and predictions\.json does not say from'):
        outputs.claim_outputs(items_of('c.jpg'), tmp_path)
    (tmp_path / outputs.LEDGER).write_text('[]')
    with pytest.raises(UserError, match='not a ledger of predictions'):
        outputs.claim_outputs(first, tmp_path)
