"""Golden cases of the op image_processor from transformers 5.23.0 with Pillow 13.0.0.

The processors are transformers' PIL ones ("slow"), in small sizes so that the files stay small.

    python scripts/golden/make_images.py [FOLDER]        (default: tests/golden)
"""

import pathlib
import sys

import numpy
import torch
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, ViTImageProcessorPil

from case import write_case

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def photograph(height, width, seed):
    """Smooth colour with edges and grain: what a wrong filter, offset or rounding each shows in."""
    generator = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0:height, 0:width].astype(numpy.float64)
    waves = [128 + 110 * numpy.sin(x / (3 + c) + y / (7 - c) + c) for c in range(3)]
    image = numpy.stack(waves, axis=-1)
    image[height // 3 : height // 2, width // 4 : width // 2] = [250, 5, 120]
    return numpy.clip(image + generator.normal(0, 20, image.shape), 0, 255).astype(numpy.uint8)


def extremes(height, width, seed):
    """Black and white pixels side by side: a bicubic sum leaves the range of a byte in both directions."""
    generator = numpy.random.default_rng(seed)
    return (generator.integers(0, 2, (height, width, 3)) * 255).astype(numpy.uint8)


def processor_case(folder, name, image, processor):
    pixel_values = numpy.asarray(processor(image, input_data_format="channels_last")["pixel_values"][0])
    write_case(
        folder / f"image_processor_{name}.safetensors",
        "image_processor",
        params={"processor": processor.to_dict()},
        inputs={"image": torch.from_numpy(image)},
        outputs={"pixel_values": torch.from_numpy(pixel_values.astype(numpy.float32))},
        # Both sides round alike, so the tolerance is that of float32 alone.
        rtol=1e-6,
        atol=1e-6,
    )


def dinov2(shortest_edge, crop, **changes):
    """DINOv2's processor at another size."""
    height, width = crop if isinstance(crop, tuple) else (crop, crop)
    return BitImageProcessorPil(
        size={"shortest_edge": shortest_edge}, crop_size={"height": height, "width": width}, **{**IMAGENET, **changes}
    )


def main():
    default = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    processor_case(folder, "down", photograph(75, 100, 1), dinov2(32, 28))
    processor_case(folder, "down_upright", photograph(100, 75, 2), dinov2(32, 28))
    processor_case(folder, "up", photograph(15, 20, 3), dinov2(36, 32))
    # Odd sizes everywhere: the longer edge is cut to whole pixels, and so are the crop's offsets.
    processor_case(folder, "odd", photograph(53, 67, 4), dinov2(31, 26))
    processor_case(folder, "odd_crop", photograph(67, 53, 5), dinov2(30, (23, 27)))
    processor_case(folder, "same_size", photograph(32, 45, 6), dinov2(32, 28))
    processor_case(folder, "wide", photograph(20, 260, 7), dinov2(16, 14))
    # So tall that Pillow resizes its columns first.
    processor_case(folder, "tall", extremes(260, 20, 8), dinov2(16, 14))
    processor_case(folder, "one_pixel", photograph(1, 1, 9), dinov2(9, 7))
    processor_case(folder, "crop_larger", photograph(40, 30, 10), dinov2(20, (33, 28)))
    processor_case(folder, "crop_larger_one_way", photograph(60, 20, 11), dinov2(15, (28, 22)))
    processor_case(folder, "extremes_down", extremes(60, 70, 12), dinov2(32, 28))
    processor_case(folder, "extremes_up", extremes(12, 11, 13), dinov2(32, 28))
    processor_case(folder, "bilinear", photograph(61, 50, 14), dinov2(32, 28, resample=2))
    processor_case(folder, "bilinear_up", extremes(9, 12, 15), dinov2(24, 20, resample=2))
    processor_case(folder, "height_width", photograph(50, 70, 16), ViTImageProcessorPil(size={"height": 24, "width": 36}))
    processor_case(
        folder,
        "height_width_bicubic",
        extremes(50, 31, 17),
        ViTImageProcessorPil(size={"height": 20, "width": 40}, resample=3, **IMAGENET),
    )
    clip = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    processor_case(folder, "clip", photograph(60, 44, 18), CLIPImageProcessorPil(**clip))
    processor_case(folder, "no_rescale", photograph(45, 60, 19), dinov2(32, 28, do_rescale=False, image_mean=[120, 110, 100],
                                                                        image_std=[60, 50, 40]))
    processor_case(folder, "no_normalize", photograph(45, 60, 20), dinov2(32, 28, do_normalize=False))
    processor_case(folder, "bytes", photograph(45, 60, 21), dinov2(32, 28, do_rescale=False, do_normalize=False))
    processor_case(folder, "other_rescale", photograph(45, 60, 22), dinov2(32, 28, rescale_factor=1 / 127.5,
                                                                           image_mean=[1.0, 0.9, 1.1], image_std=[0.5, 1.5, 1.0]))
    processor_case(folder, "no_resize", photograph(33, 41, 23), dinov2(32, 28, do_resize=False))
    processor_case(folder, "no_crop", photograph(45, 61, 24), dinov2(20, 28, do_center_crop=False))


if __name__ == "__main__":
    main()
