"""Pictures of results: what the pixels say, not how they look."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.data import render

COLORS = [[10, 20, 30], [200, 0, 0], [0, 250, 0]]
NAMES = ['road', 'car', 'tree']


def pixels_of(path):
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.fixture
def mask():
    mask = np.zeros((40, 60), np.int32)
    mask[10:20, 10:30] = 1
    return mask


def test_palette_pictures_hold_ids_and_colours(mask):
    mask[0, 0] = 255
    picture = render.color_mask(mask, COLORS)
    assert picture.mode == 'P' and (np.asarray(picture) == mask).all()
    colored = np.asarray(picture.convert('RGB'))
    assert colored[15, 15].tolist() == COLORS[1] and colored[30, 30].tolist() == COLORS[0]
    assert colored[0, 0].tolist() == [0, 0, 0]


def test_ids_above_255_are_kept(mask, tmp_path):
    mask[0, 0] = 300
    render.id_mask(mask).save(tmp_path / 'ids.png')
    assert (pixels_of(tmp_path / 'ids.png') == mask).all()
    assert render.color_mask(mask, COLORS).mode == 'RGB'


def test_an_overlay_keeps_the_image_and_names_the_classes_present(mask, monkeypatch):
    image = np.full((40, 60, 3), 100, np.uint8)
    texts = []
    monkeypatch.setattr(render.ImageDraw.ImageDraw, 'text',
                        lambda self, place, text, **options: texts.append(text))
    picture = np.asarray(render.overlay(image, mask, COLORS, NAMES, alpha=0.5))
    assert picture.shape[0] > 40 and picture.shape[1] >= 60
    assert picture[30, 40].tolist() == [55, 60, 65]  # half image, half colour
    assert picture[14, 20].tolist() == [150, 50, 50]
    assert texts == ['road  92 %', 'car  8 %']
    assert any((picture[40:].reshape(-1, 3) == COLORS[1]).all(axis=1))  # its swatch


def test_ids_without_name_or_colour_are_drawn(mask):
    mask[:5] = 7
    picture = np.asarray(render.overlay(np.full((40, 60, 3), 100, np.uint8), mask, COLORS, NAMES, alpha=1.0))
    assert picture[2, 2].tolist() == [0, 0, 0]


def test_long_legends_wrap_and_stay_inside():
    mask = np.arange(40 * 60).reshape(40, 60) % 30
    colors = [[index * 8, 0, 0] for index in range(30)]
    picture = render.overlay(np.zeros((40, 60, 3), np.uint8), mask, colors, [f'a class called {i}' for i in range(30)])
    assert picture.width < 400 and picture.height > 300
    right = np.asarray(picture)[40:, -2:]
    assert (right == 255).all()  # nothing is cut at the border


def test_a_contact_sheet_has_equal_tiles():
    image = np.full((30, 40, 3), 50, np.uint8)
    truth = render.color_mask(np.ones((60, 80), np.uint8), COLORS)
    sheet = render.contact_sheet([(image, truth, image)] * 2, ['image', 'truth', 'prediction'], titles=['a', 'b'],
                                 legend=list(zip(NAMES, COLORS)), tile_width=100)
    pixels = np.asarray(sheet)
    assert sheet.width == 4 * 6 + 3 * 100
    assert (pixels == 50).all(axis=2).sum() == 4 * 100 * 75
    assert (pixels == COLORS[1]).all(axis=2).sum() >= 2 * 100 * 75
    plain = render.contact_sheet([(image,)], ['image'])
    assert plain.height < sheet.height + 400


def test_wrong_sheets_are_refused():
    image = np.zeros((3, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r'rows have \[1\] pictures for 2 headers'):
        render.contact_sheet([(image,)], ['a', 'b'])
    with pytest.raises(ValueError, match='at least one row'):
        render.contact_sheet([], ['a'])
    with pytest.raises(ValueError, match='2 titles for 1 rows'):
        render.contact_sheet([(image,)], ['a'], titles=['x', 'y'])


def test_three_files_are_written_per_image(mask, tmp_path):
    paths = render.write_prediction(tmp_path, 'sub/a.jpg', mask, np.zeros((40, 60, 3), np.uint8), COLORS, NAMES)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        'label_ids/sub/a.png', 'pseudo_color_prediction/sub/a.png', 'added_prediction/sub/a.png']
    for path in paths[:2]:
        assert (pixels_of(path) == mask).all()
    assert pixels_of(paths[2]).shape[2] == 3
    assert sorted(p.name for p in (tmp_path / 'label_ids').rglob('*')) == ['a.png', 'sub']  # no temporary files left


def test_fonts_of_old_pillow(mask, monkeypatch):
    from PIL import ImageFont
    bitmap = ImageFont.load_default_imagefont()

    def load_default(*size):
        if size:
            raise TypeError('load_default() takes 0 positional arguments but 1 was given')
        return bitmap
    monkeypatch.setattr(render.ImageFont, 'load_default', load_default)
    assert render.overlay(np.zeros((40, 60, 3), np.uint8), mask, COLORS, NAMES).height > 40
