"""Golden cases of the op image_file: encoded images, and what Pillow 13.0.0 decodes them to.

    python scripts/golden/make_image_files.py [FOLDER]        (default: tests/golden)
"""

import io
import pathlib
import struct
import sys

import numpy
import torch
from PIL import Image, ImageOps, PngImagePlugin

from case import write_case

ORIENTATION = 0x0112
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{}/></rdf:RDF></x:xmpmeta>'
)


def blocks():
    """2 × 3 blocks of 8 pixels, each of its own grey: no two orientations look alike."""
    image = Image.new("RGB", (24, 16))
    for block in range(6):
        left, top = block % 3 * 8, block // 3 * 8
        image.paste((20 + 40 * block,) * 3, (left, top, left + 8, top + 8))
    return image


def colours(width, height, seed, alpha=False):
    generator = numpy.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, width, 4 if alpha else 3), dtype=numpy.uint8)
    if alpha:
        pixels[..., 3] = generator.choice([0, 90, 255], (height, width))
    return Image.fromarray(pixels)


def saved(image, image_format, **options):
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def exif(orientation):
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data.tobytes()


def xmp(orientation=None):
    return XMP.format("" if orientation is None else f' tiff:Orientation="{orientation}"').encode()


def app1(content):
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def xmp_segment(orientation=None):
    return app1(b"http://ns.adobe.com/xap/1.0/\0" + xmp(orientation))


def jpeg(*segments):
    """Without subsampling and at full quality; the segments stand first, in their order."""
    plain = saved(blocks(), "JPEG", quality=100, subsampling=0)
    return plain[:2] + b"".join(segments) + plain[2:]


def png_chunks(data):
    at = 8
    while at < len(data):
        end = at + 12 + struct.unpack(">I", data[at : at + 4])[0]
        yield data[at + 4 : at + 8], data[at:end]
        at = end


def png_with_exif_at_the_end(orientation):
    data = saved(blocks(), "PNG", exif=exif(orientation))
    chunks = list(png_chunks(data))
    order = [chunk for name, chunk in chunks if name not in (b"eXIf", b"IEND")]
    order += [chunk for name, chunk in chunks if name == b"eXIf"] + [chunk for name, chunk in chunks if name == b"IEND"]
    return data[:8] + b"".join(order)


def png_with_xmp(orientation):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp(orientation).decode())
    return saved(blocks(), "PNG", pnginfo=info)


def riff_chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def little24(value):
    return struct.pack("<I", value)[:3]


def frame_on_a_larger_canvas(frame, canvas, left, top, alpha):
    """An animated WebP of one frame that leaves some of its canvas free."""
    still = saved(frame, "WEBP", lossless=True)
    picture = still[still.index(b"VP8L") :]
    header = struct.pack("<I", 0x02 | (0x10 if alpha else 0)) + little24(canvas[0] - 1) + little24(canvas[1] - 1)
    place = little24(left // 2) + little24(top // 2) + little24(frame.width - 1) + little24(frame.height - 1)
    chunks = riff_chunk(b"VP8X", header)
    chunks += riff_chunk(b"ANIM", bytes([200, 100, 50, 255]) + struct.pack("<H", 0))
    chunks += riff_chunk(b"ANMF", place + little24(100) + b"\0" + picture)
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def on_white(image):
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255)), image).convert("RGB")


def pixels_of(image):
    return torch.from_numpy(numpy.asarray(image).astype(numpy.float32))


def file_case(folder, name, data, tolerance=0.0):
    def opened():
        return ImageOps.exif_transpose(Image.open(io.BytesIO(data)))

    write_case(
        folder / f"image_file_{name}.safetensors",
        "image_file",
        inputs={"file": torch.frombuffer(bytearray(data), dtype=torch.uint8)},
        outputs={"white": pixels_of(on_white(opened())), "dropped": pixels_of(opened().convert("RGB"))},
        rtol=0.0,
        atol=tolerance,
    )


def main():
    default = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default

    grey = colours(6, 4, 1).convert("L")
    file_case(folder, "grey_transparent", saved(grey, "PNG", transparency=grey.getpixel((1, 1))))
    one_bit = grey.point(lambda value: 255 * (value > 128)).convert("1")
    file_case(folder, "one_bit_transparent", saved(one_bit, "PNG", transparency=0))

    file_case(folder, "jpeg_xmp_before_exif", jpeg(xmp_segment(), app1(exif(6))), tolerance=1.0)
    file_case(folder, "jpeg_exif_against_xmp", jpeg(xmp_segment(3), app1(exif(8))), tolerance=1.0)
    file_case(folder, "jpeg_xmp_alone", jpeg(xmp_segment(5)), tolerance=1.0)
    file_case(folder, "png_exif_at_the_end", png_with_exif_at_the_end(6))
    file_case(folder, "png_xmp", png_with_xmp(7))
    file_case(folder, "webp_exif_and_xmp", saved(blocks(), "WEBP", lossless=True, exif=exif(6), xmp=xmp(3)))
    file_case(folder, "webp_xmp", saved(blocks(), "WEBP", lossless=True, xmp=xmp(8)))

    frames = [colours(9, 7, seed) for seed in (2, 3)]
    file_case(folder, "webp_animated", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))
    frames = [colours(9, 7, seed, alpha=True) for seed in (4, 5)]
    options = {"save_all": True, "append_images": frames[1:]}
    file_case(folder, "webp_animated_alpha", saved(frames[0], "WEBP", lossless=True, exact=True, **options), tolerance=1.0)
    file_case(folder, "webp_animated_lossy_alpha", saved(frames[0], "WEBP", quality=80, **options), tolerance=1.0)
    for alpha in (False, True):
        data = frame_on_a_larger_canvas(colours(5, 3, 6), (12, 8), 4, 2, alpha)
        file_case(folder, "webp_animated_canvas" + ("_alpha" if alpha else ""), data)
    frames = [colours(6, 5, seed) for seed in (7, 8)]
    file_case(folder, "png_animated", saved(frames[0], "PNG", save_all=True, append_images=frames[1:]))


if __name__ == "__main__":
    main()
