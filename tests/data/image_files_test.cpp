// What decode_image makes of the kinds of files that there are. Expected values are Pillow's: of
// transformers' convert_to_rgb for transparency on white, of convert("RGB") where it is dropped.

#include <gmock/gmock.h>

#include <opencv2/core.hpp>

#include "core/error.h"
#include "data/image_transform.h"
#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

std::vector<int> decoded(const std::string& bytes, Alpha alpha = Alpha::kWhite) {
  const cv::Mat image = decode_image(as_bytes(bytes), "image", alpha);
  EXPECT_EQ(image.type(), CV_8UC3);
  std::vector<int> values;
  for (int y = 0; y < image.rows; ++y) {
    for (int x = 0; x < image.cols; ++x) {
      for (int c = 0; c < 3; ++c) values.push_back(image.at<cv::Vec3b>(y, x)[c]);
    }
  }
  return values;
}

struct TransparentFile {
  const char* name;
  const char* hex;
  std::vector<int> white;
  std::vector<int> dropped;
};

// Each 3 × 2 pixels, alphas of 0, 1, 128, 200, 254, 255 where they are given by pixel.
const TransparentFile kTransparentFiles[] = {
    {"RGBA",
     "89504e470d0a1a0a0000000d49484452000000030000000208060000009d74661a000000234944415478da635cf17407"
     "0333e767c6cc075ef50c33cfb09e5035bdfaefdc81b5ff0195750cf2249b8ab10000000049454e44ae426082",
     {255, 255, 255, 255, 255, 255, 137, 230, 250, 175, 215, 59, 38, 54, 213, 206, 192, 173},
     {168, 229, 184, 171, 238, 171, 20, 206, 245, 153, 204, 5, 37, 53, 213, 206, 192, 173}},
    {"grey with alpha",
     "89504e470d0a1a0a0000000d4948445200000003000000020804000000377dae91000000174944415478da6358c1b09a"
     "51a48161e609d57fe7fe03002254063a1cb261720000000049454e44ae426082",
     {255, 255, 255, 255, 255, 255, 137, 137, 137, 175, 175, 175, 38, 38, 38, 206, 206, 206},
     {168, 168, 168, 171, 171, 171, 20, 20, 20, 153, 153, 153, 37, 37, 37, 206, 206, 206}},
    {"palette with an alpha for each colour",
     "89504e470d0a1a0a0000000d4948445200000003000000020203000000e01a8e890000000c504c54450a141ec8643200"
     "ff004d5863842b5c2e0000000474524e530082ff28f7b3fcfc0000000c4944415478da639060b80000011c00e9c2689a"
     "a60000000049454e44ae426082",
     {255, 255, 255, 227, 176, 150, 0, 255, 0, 227, 229, 231, 227, 176, 150, 255, 255, 255},
     {10, 20, 30, 200, 100, 50, 0, 255, 0, 77, 88, 99, 200, 100, 50, 10, 20, 30}},
    {"palette with one transparent colour",
     "89504e470d0a1a0a0000000d4948445200000003000000020203000000e01a8e890000000c504c54450a141ec8643200"
     "ff004d5863842b5c2e0000000374524e53ffff00d7ca0d410000000c4944415478da639060b80000011c00e9c2689aa6"
     "0000000049454e44ae426082",
     {10, 20, 30, 200, 100, 50, 255, 255, 255, 77, 88, 99, 200, 100, 50, 10, 20, 30},
     {10, 20, 30, 200, 100, 50, 0, 255, 0, 77, 88, 99, 200, 100, 50, 10, 20, 30}},
    {"RGB with one transparent colour",
     "89504e470d0a1a0a0000000d49484452000000030000000208020000001216f14d0000000674524e530025003500d5b3"
     "9ea6c50000001d4944415478da635cf1740733e7e7cc075e0c33cfb0aa9a5e3d77602d005fac09ad7402388600000000"
     "49454e44ae426082",
     {168, 229, 184, 171, 238, 171, 20, 206, 245, 153, 204, 5, 255, 255, 255, 206, 192, 173},
     {168, 229, 184, 171, 238, 171, 20, 206, 245, 153, 204, 5, 37, 53, 213, 206, 192, 173}},
};

TEST(ImageFiles, TransparencyLiesOnWhiteOrIsDropped) {
  for (const TransparentFile& file : kTransparentFiles) {
    EXPECT_EQ(decoded(from_hex(file.hex)), file.white) << file.name;
    EXPECT_EQ(decoded(from_hex(file.hex), Alpha::kDrop), file.dropped) << file.name;
  }
}

using namespace std::string_literals;

std::string little(std::size_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xff);
  return text;
}

std::string big(std::size_t value, int bytes) {
  std::string text = little(value, bytes);
  return {text.rbegin(), text.rend()};
}

std::size_t crc32_of(const std::string& bytes) {
  std::uint32_t crc = 0xffffffffu;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1u) != 0 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
  }
  return ~crc & 0xffffffffu;
}

/// EXIF data that holds the orientation alone, in either byte order.
std::string exif(int orientation, bool big_endian) {
  const auto number = big_endian ? big : little;
  const auto value = static_cast<std::size_t>(orientation);
  return (big_endian ? "MM"s : "II"s) + number(42, 2) + number(8, 4) + number(1, 2) + number(0x112, 2) +
         number(3, 2) + number(1, 4) + number(value, 2) + number(0, 2) + number(0, 4);
}

/// A picture of 2 × 3 blocks of 16 pixels, each of its own grey, with EXIF data.
std::string oriented_file(const std::string& format, const std::string& exif, bool transparent) {
  cv::Mat picture(32, 48, transparent ? CV_8UC4 : CV_8UC3);
  for (int block = 0; block < 6; ++block) {
    const int grey = 20 + 40 * block;
    picture(cv::Rect(block % 3 * 16, block / 3 * 16, 16, 16)).setTo(cv::Scalar(grey, grey, grey, 255));
  }
  std::string file = encode(format, picture);
  if (format == ".jpg") {
    const std::string content = "Exif\0\0"s + exif;
    return file.insert(2, "\xff\xe1"s + big(content.size() + 2, 2) + content);
  }
  // The checksum of the chunk is wrong; it is not looked at.
  if (format == ".png") return file.insert(33, big(exif.size(), 4) + "eXIf" + exif + big(0, 4));
  const std::string chunks = "VP8X" + little(10, 4) + little(transparent ? 0x18 : 0x08, 4) + little(47, 3) +
                             little(31, 3) + file.substr(file.compare(12, 4, "VP8X") == 0 ? 30 : 12) +
                             "EXIF" + little(exif.size(), 4) + exif;
  return "RIFF" + little(chunks.size() + 4, 4) + "WEBP" + chunks;
}

void expect_upright(const std::string& file, int orientation, const std::string& what) {
  // Which block of the stored picture stands at each place of the upright one, row by row.
  const std::vector<std::vector<int>> upright = {{0, 1, 2, 3, 4, 5}, {2, 1, 0, 5, 4, 3}, {5, 4, 3, 2, 1, 0},
                                                 {3, 4, 5, 0, 1, 2}, {0, 3, 1, 4, 2, 5}, {3, 0, 4, 1, 5, 2},
                                                 {5, 2, 4, 1, 3, 0}, {2, 5, 1, 4, 0, 3}};
  const cv::Mat image = decode_image(as_bytes(file), "image");
  const bool lies = orientation <= 4;
  ASSERT_EQ(image.size(), (lies ? cv::Size(48, 32) : cv::Size(32, 48))) << what;
  const int columns = lies ? 3 : 2;
  for (int place = 0; place < 6; ++place) {
    const cv::Vec3b pixel = image.at<cv::Vec3b>(place / columns * 16 + 8, place % columns * 16 + 8);
    const int block = upright[static_cast<std::size_t>(orientation - 1)][static_cast<std::size_t>(place)];
    for (int c = 0; c < 3; ++c) EXPECT_NEAR(pixel[c], 20 + 40 * block, 3) << what << ", place " << place;
  }
}

TEST(ImageFiles, BrokenOnesWithTransparencyAreErrors) {
  const cv::Mat noise(40, 30, CV_8UC4);
  cv::randu(noise, 0, 256);
  for (const char* format : {".png", ".webp"}) {
    const std::string whole = data::encode(format, noise);
    std::string turned = whole;
    turned[turned.size() / 2] = static_cast<char>(~turned[turned.size() / 2]);
    for (const std::string& bytes : {whole.substr(0, whole.size() / 2), turned}) {
      for (const Alpha alpha : {Alpha::kWhite, Alpha::kDrop}) {
        try {
          const cv::Mat image = decode_image(data::as_bytes(bytes), "broken", alpha);
          EXPECT_EQ(image.size(), noise.size());  // a flipped bit may go unseen, as in WebP
        } catch (const Error& error) {
          EXPECT_THAT(error.what(), ::testing::HasSubstr("broken"));
        }
      }
    }
    EXPECT_THROW(decode_image(data::as_bytes(whole.substr(0, whole.size() / 2)), "broken"), Error);
  }
}

TEST(ImageFiles, EveryOrientationIsTurnedUpright) {
  for (int orientation = 1; orientation <= 8; ++orientation) {
    for (const bool big_endian : {true, false}) {
      for (const std::string format : {".jpg", ".png", ".webp"}) {
        for (const bool transparent : {false, true}) {
          if (transparent && format == ".jpg") continue;
          expect_upright(oriented_file(format, exif(orientation, big_endian), transparent), orientation,
                         format + (transparent ? ", transparent, " : ", ") + std::to_string(orientation));
        }
      }
    }
  }
}

TEST(ImageFiles, BrokenExifDataIsPassedOver) {
  const std::string whole = exif(6, true);
  const std::vector<std::string> broken = {"",
                                           "MM",
                                           "XX" + whole.substr(2),
                                           whole.substr(0, 12),
                                           exif(0, true),
                                           exif(9, false),
                                           whole.substr(0, 4) + "\xff\xff\xff\xf0" + whole.substr(8),
                                           whole.substr(0, 8) + "\xff\xff" + std::string(20, '\0')};
  for (const std::string& data : broken) {
    for (const std::string format : {".png", ".webp"}) {
      expect_upright(oriented_file(format, data, false), 1, format);
    }
  }
}

std::string app1(const std::string& content) { return "\xff\xe1"s + big(content.size() + 2, 2) + content; }

/// A JPEG with segments before its own, in their order.
std::string jpeg_with(const std::vector<std::string>& segments) {
  std::string all;
  for (const std::string& segment : segments) all += segment;
  return oriented_file(".jpg", exif(1, true), false).erase(2, 4 + 6 + exif(1, true).size()).insert(2, all);
}

TEST(ImageFiles, AJpegsOrientationIsFoundAmongItsSegments) {
  const std::string xmp = "http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description "s;
  const std::string no_orientation = app1(xmp + "/></x:xmpmeta>");
  const std::string upside_down = app1(xmp + "tiff:Orientation=\"3\"/></x:xmpmeta>");
  const std::string extended = app1("http://ns.adobe.com/xmp/extension/\0"s + std::string(300, 'x'));
  const std::string flash = "\xff\xe2"s + big(12, 2) + "FPXR\0\0\0\0\0\0"s;
  for (int orientation = 1; orientation <= 8; ++orientation) {
    for (const bool big_endian : {true, false}) {
      const std::string wanted = app1("Exif\0\0"s + exif(orientation, big_endian));
      const std::string broken = app1("Exif\0\0MM\0"s);
      for (const auto& segments :
           std::vector<std::vector<std::string>>{{no_orientation, wanted},
                                                 {upside_down, wanted},
                                                 {wanted, upside_down},
                                                 {extended, flash, no_orientation, wanted},
                                                 {broken, wanted},
                                                 {app1("Exif"), app1(""), wanted}}) {
        expect_upright(jpeg_with(segments), orientation, fmt::format("orientation {}", orientation));
      }
    }
  }
  expect_upright(jpeg_with({no_orientation}), 1, "none");
  expect_upright(jpeg_with({upside_down}), 3, "XMP alone");
  expect_upright(jpeg_with({app1(xmp + "><tiff:Orientation>6</tiff:Orientation>")}), 6, "XMP's element");
  expect_upright(jpeg_with({app1(xmp + "tiff:Orientation=\"9\"/>")}), 1, "no orientation");
  // What EXIF says goes before XMP, also where it says nothing useful.
  expect_upright(jpeg_with({upside_down, app1("Exif\0\0"s + exif(9, true))}), 1, "out of range");
}

TEST(ImageFiles, AnOrientationMayBeAByteOrALong) {
  const auto as_long = [](bool big_endian) {
    std::string data = exif(6, big_endian);
    const auto number = big_endian ? big : little;
    return data.replace(12, 2, number(4, 2)).replace(18, 4, number(6, 4));
  };
  const auto as_byte = [](bool big_endian) {
    std::string data = exif(6, big_endian);
    return data.replace(12, 2, (big_endian ? big : little)(1, 2)).replace(18, 4, "\6\0\0\0"s);
  };
  for (const bool big_endian : {true, false}) {
    for (const std::string& data : {as_long(big_endian), as_byte(big_endian)}) {
      for (const std::string format : {".jpg", ".png", ".webp"})
        expect_upright(oriented_file(format, data, false), 6, format);
    }
  }
}

TEST(ImageFiles, ExifMayStandAnywhereAndBeginWithItsName) {
  const std::string data = "Exif\0\0"s + exif(6, false);
  for (const std::string format : {".png", ".webp"})
    expect_upright(oriented_file(format, data, false), 6, format);
  std::string png = oriented_file(".png", exif(8, true), false);
  const std::string chunk = png.substr(33, 12 + exif(8, true).size());
  png.erase(33, chunk.size());
  png.insert(png.size() - 12, chunk);
  expect_upright(png, 8, "PNG, after the picture");
  std::string webp = oriented_file(".webp", exif(5, true), false);
  const std::string last = webp.substr(webp.find("EXIF"));
  webp.erase(webp.find("EXIF")).insert(30, last);  // against the standard's order, before the picture
  expect_upright(webp, 5, "WebP, before the picture");
}

/// A PNG of one row, grey, with the value that is transparent.
std::string grey_png(int bit_depth, const std::string& row, int width, int transparent) {
  const auto chunk = [](const std::string& name, const std::string& content) {
    return big(content.size(), 4) + name + content + big(crc32_of(name + content), 4);
  };
  const std::string raw = "\0"s + row;
  // Deflate as one block that is stored, in zlib's wrapping.
  std::uint32_t a = 1, b = 0;
  for (const char c : raw) {
    a = (a + static_cast<unsigned char>(c)) % 65521;
    b = (b + a) % 65521;
  }
  const std::string stored = "\x78\x01\x01"s + little(raw.size(), 2) + little(~raw.size() & 0xffff, 2) + raw +
                             big(std::size_t{b} << 16 | a, 4);
  return "\x89PNG\r\n\x1a\n"s +
         chunk("IHDR", big(static_cast<std::size_t>(width), 4) + big(1, 4) +
                           little(static_cast<std::size_t>(bit_depth), 1) + "\0\0\0\0"s) +
         chunk("tRNS", big(static_cast<std::size_t>(transparent), 2)) + chunk("IDAT", stored) +
         chunk("IEND", "");
}

// Pillow compares the 2 and 4 bit values with widened ones, and has no 16 bit ones that mean anything; here
// they are the PNG specification's (section 11.3.2.1).
TEST(ImageFiles, TheTransparentGreyIsWhiteInEveryDepth) {
  struct Case {
    int bit_depth;
    std::string row;
    int width;
    int transparent;
    std::vector<int> white;
    std::vector<int> dropped;
  };
  const Case cases[] = {
      {1, "\x40"s, 3, 0, {255, 255, 255}, {0, 255, 0}},
      {2, "\x1b"s, 4, 1, {0, 255, 170, 255}, {0, 85, 170, 255}},
      {4, "\x06\xf0"s, 4, 6, {0, 255, 255, 0}, {0, 102, 255, 0}},
      {8, "\x05\x82\xff"s, 3, 0x82, {5, 255, 255}, {5, 0x82, 255}},
      {8, "\x05\x82\xff"s, 3, 0x0382, {5, 255, 255}, {5, 0x82, 255}},  // bits that are to be passed over
      // Alike in one of the two bytes alone: not transparent.
      {16, "\xb9\x24\xb9\x25\xba\x24\x00\xff"s, 4, 0xb924, {255, 0xb9, 0xba, 0}, {0xb9, 0xb9, 0xba, 0}},
  };
  for (const Case& file : cases) {
    const std::string png = grey_png(file.bit_depth, file.row, file.width, file.transparent);
    for (const Alpha alpha : {Alpha::kWhite, Alpha::kDrop}) {
      const std::vector<int> values = decoded(png, alpha);
      const std::vector<int>& expected = alpha == Alpha::kWhite ? file.white : file.dropped;
      ASSERT_EQ(values.size(), 3 * expected.size());
      for (std::size_t i = 0; i < values.size(); ++i)
        EXPECT_EQ(values[i], expected[i / 3]) << file.bit_depth << " bits, value " << i;
    }
  }
}

TEST(ImageFiles, OtherFormatsAreNamed) {
  const std::pair<std::string, const char*> files[] = {
      {"GIF89a" + std::string(30, '\0'), "a GIF"},
      {"\0\0\0\x1c"s + "ftypavif" + std::string(20, '\0'), "AVIF"},
      {"\0\0\0\x1c"s + "ftypheic" + std::string(20, '\0'), "HEIC"},
      {"II*\0"s + std::string(30, '\0'), "TIFF"},
      {"\0\5\x16\7"s + std::string(30, '\0'), "AppleDouble"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"},
      {"<!DOCTYPE html><html><body>Not found</body></html>", "a web page"},
      {std::string(500, '\0'), "begins with zeros"},
      {"BM" + std::string(30, '\0'), "a BMP"}};
  for (const auto& [bytes, what] : files) {
    EXPECT_THAT(error_of([&, &bytes = bytes] { decode_image(as_bytes(bytes), "a.jpg"); }),
                ::testing::AllOf(::testing::HasSubstr("a.jpg: expected a JPEG, PNG or WebP image, found"),
                                 ::testing::HasSubstr(what)));
  }
}

/// An animated WebP whose chunks are given.
std::string animated_webp(int width, int height, const std::string& chunks) {
  const std::string all = "VP8X" + little(10, 4) + little(0x02, 4) +
                          little(static_cast<std::size_t>(width - 1), 3) +
                          little(static_cast<std::size_t>(height - 1), 3) + chunks;
  return "RIFF" + little(all.size() + 4, 4) + "WEBP" + all;
}

std::string animation_frame(int left, int top, int width, int height, const std::string& picture) {
  const auto number = [](int value) { return little(static_cast<std::size_t>(value), 3); };
  const std::string content =
      number(left / 2) + number(top / 2) + number(width - 1) + number(height - 1) + little(0, 4) + picture;
  return "ANMF" + little(content.size(), 4) + content + std::string(content.size() % 2, '\0');
}

// What whole ones decode to, the golden cases of image_file hold against Pillow.
TEST(ImageFiles, BrokenAnimationsAreErrors) {
  const std::string still = encode(".webp", cv::Mat(8, 10, CV_8UC3, cv::Scalar(1, 2, 3)));
  const std::string picture = still.substr(12);
  EXPECT_FALSE(
      decode_image(as_bytes(animated_webp(12, 10, animation_frame(2, 2, 10, 8, picture))), "x").empty());
  const std::string broken[] = {
      animated_webp(12, 10, ""),
      animated_webp(12, 10, animation_frame(4, 2, 10, 8, picture)),                // off the canvas
      animated_webp(12, 10, animation_frame(2, 2, 10, 7, picture)),                // of another size
      animated_webp(12, 10, animation_frame(2, 2, 10, 8, "")),                     // without a picture
      animated_webp(12, 10, animation_frame(2, 2, 10, 8, picture.substr(0, 20))),  // cut short
      animated_webp(12, 10, animation_frame(2, 2, 10, 8, "ALPH" + little(0, 4))),  // with alpha alone
  };
  for (const std::string& bytes : broken) {
    EXPECT_THAT(error_of([&] { decode_image(as_bytes(bytes), "a.webp"); }), ::testing::HasSubstr("a.webp: "));
  }
}

TEST(ImageFiles, CmykIsWithinOneLevelOfPillow) {
  for (const Alpha alpha : {Alpha::kWhite, Alpha::kDrop}) {
    const std::vector<int> values = decoded(
        from_hex(
            "ffd8ffee000e41646f626500640000000000ffdb00430002010101010102010101020202020204030202020205040403"
            "04060506060605060606070908060709070606080b08090a0a0a0a0a06080b0c0b0a0c090a0a0affc000140800040005"
            "044311004d11005911004b1100ffc400160001010100000000000000000000000000090708ffc4002810000004040602"
            "02030000000000000000010203040506081107121314152100091622233141ffda000e0443004d0059004b00003f00c4"
            "15f9ec32b064fab69b25d97717b6ecdbec3451e021e7cb9983730f666e223d9847b1fef8c452d2eac070220509849f49"
            "ba5bad34ed9ad774a987b35c7f623e4aeb171467ba08a8e98e9369363bf14c3f95367c04036a93fdaee99a0f17fcef0a"
            "aae7cce1c2c7fba86b67ca16280001f1eda2a1b18701bd81cff85185137f150085715b061c7b75f4b5614cd63fdd64ce"
            "735d450e6ecc36bd82c0001e7fffd9"),
        alpha);
    const std::vector<int> expected = {94, 78,  10,  94, 78,  9,   51, 93, 62, 49, 92, 61, 51, 92, 62,
                                       95, 79,  8,   93, 75,  10,  50, 93, 63, 51, 92, 62, 50, 91, 61,
                                       94, 132, 153, 91, 131, 152, 0,  4,  1,  0,  4,  1,  0,  7,  2,
                                       94, 131, 149, 92, 129, 152, 0,  4,  1,  1,  8,  2,  0,  4,  1};
    ASSERT_EQ(values.size(), expected.size());
    for (std::size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], expected[i], 1) << i;
  }
}

TEST(ImageFiles, GreyHasThreeEqualChannels) {
  const std::string hex =
      "89504e470d0a1a0a0000000d4948445200000003000000020800000000b81f39c6000000104944415478da63e04a3fc7"
      "c4ac610200075301a197f283310000000049454e44ae426082";
  EXPECT_EQ(decoded(from_hex(hex)),
            (std::vector<int>{10, 10, 10, 103, 103, 103, 206, 206, 206, 13, 13, 13, 143, 143, 143, 2, 2, 2}));
}

}  // namespace
}  // namespace tessera::data
