#include "shapes/make_shapes.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <regex>
#include <set>

#include "core/logging.h"
#include "data/image_transform.h"
#include "data/webdataset.h"
#include "shapes/scene.h"
#include "tests/data/fixtures.h"

namespace tessera::shapes {
namespace {

using data::error_of;
using data::TemporaryFolder;
using ::testing::HasSubstr;

int index_of(const std::vector<std::string>& words, const std::string& word) {
  const auto found = std::find(words.begin(), words.end(), word);
  EXPECT_NE(found, words.end()) << word;
  return static_cast<int>(found - words.begin());
}

/// Reads a description back from English, by another way than the one that wrote it.
SceneDescription parse_caption(const std::string& caption) {
  static const std::regex object("(left|right|top|bottom) a (small|large) (\\w+) (circle|triangle|cross)");
  std::vector<SceneObject> objects;
  std::vector<std::string> places;
  for (std::sregex_iterator it(caption.begin(), caption.end(), object), end; it != end; ++it) {
    places.push_back((*it)[1]);
    objects.push_back({index_of(scene_sizes(), (*it)[2]), index_of(scene_colors(), (*it)[3]),
                       index_of(scene_shapes(), (*it)[4])});
  }
  EXPECT_EQ(objects.size(), 2u) << caption;
  const SceneDescription parsed{objects.at(0), objects.at(1),
                                Relation(index_of(scene_places(), places.at(0)))};
  static const std::map<std::string, std::string> opposite = {
      {"left", "right"}, {"right", "left"}, {"top", "bottom"}, {"bottom", "top"}};
  EXPECT_EQ(places.at(1), opposite.at(places.at(0))) << caption;
  return parsed;
}

SceneDescription scene_of(const nlohmann::json& scene) {
  const auto object = [](const nlohmann::json& o) {
    return SceneObject{index_of(scene_sizes(), o.at("size")), index_of(scene_colors(), o.at("color")),
                       index_of(scene_shapes(), o.at("shape"))};
  };
  return {object(scene.at("objects").at(0)), object(scene.at("objects").at(1)),
          Relation(index_of(scene_relations(), scene.at("relation")))};
}

/// One text for a scene and the same scene told from its second object.
std::string canonical(const SceneDescription& scene) {
  const std::string told = scene_captions(scene).front();
  return std::min(told, scene_captions(told_from_second(scene)).front());
}

ShapesOptions small_set(const TemporaryFolder& folder) {
  ShapesOptions options;
  options.output = folder.path() / "shapes";
  options.train_count = 90;
  options.held_out_count = 25;
  options.image_size = 40;
  options.shard_size = 40;
  options.seed = 3;
  return options;
}

TEST(ShapesScene, EveryCaptionOfEveryDescriptionIsTrue) {
  const auto descriptions = canonical_descriptions();
  EXPECT_EQ(descriptions.size(), 2448u);
  std::set<std::string> seen;
  for (std::size_t i = 0; i < descriptions.size(); i += 13) {
    for (const auto& scene : {descriptions[i], told_from_second(descriptions[i])}) {
      const auto captions = scene_captions(scene);
      EXPECT_EQ(std::set<std::string>(captions.begin(), captions.end()).size(), 2u);
      int from_first = 0;
      for (const auto& caption : captions) {
        const SceneDescription parsed = parse_caption(caption);
        from_first += parsed == scene ? 1 : 0;
        ASSERT_TRUE(parsed == scene || parsed == told_from_second(scene)) << caption;
      }
      EXPECT_EQ(from_first, 1);
    }
    EXPECT_TRUE(seen.insert(canonical(descriptions[i])).second);
  }
}

/// What is found in a picture: pixels near a colour's hue, their centre and their extent.
struct Found {
  double x = 0, y = 0, pixels = 0;
};

Found find_color(const cv::Mat& rgb, const cv::Vec3d& color) {
  Found found;
  for (int y = 0; y < rgb.rows; ++y) {
    for (int x = 0; x < rgb.cols; ++x) {
      if (cv::norm(cv::Vec3d(rgb.at<cv::Vec3b>(y, x)) - color) > 40) continue;
      found.x += x;
      found.y += y;
      ++found.pixels;
    }
  }
  found.x /= std::max(1.0, found.pixels);
  found.y /= std::max(1.0, found.pixels);
  return found;
}

TEST(ShapesScene, ThePictureShowsWhatTheDescriptionSays) {
  const cv::Vec3d red(220, 40, 40);
  const cv::Vec3d blue(40, 80, 220);
  for (std::uint64_t i = 0; i < 200; ++i) {
    CounterRandom random(5, RandomPurpose::kShapes, 9, i);
    const auto draw = [&](const std::vector<std::string>& words) {
      return static_cast<int>(random.below(words.size()));
    };
    SceneDescription scene;
    scene.relation = Relation(draw(scene_relations()));
    scene.first = {draw(scene_sizes()), 0, draw(scene_shapes())};
    scene.second = {1 - scene.first.size, 2, scene.first.shape};
    const cv::Mat bgr = draw_scene(scene, 84, random);
    cv::Mat rgb;
    cv::cvtColor(bgr, rgb, cv::COLOR_BGR2RGB);
    const Found first = find_color(rgb, red);
    const Found second = find_color(rgb, blue);
    ASSERT_GT(first.pixels, 40);
    ASSERT_GT(second.pixels, 40);
    switch (scene.relation) {
      case Relation::kLeftOf:
        EXPECT_LT(first.x + 20, second.x);
        break;
      case Relation::kRightOf:
        EXPECT_GT(first.x, second.x + 20);
        break;
      case Relation::kAbove:
        EXPECT_LT(first.y + 20, second.y);
        break;
      case Relation::kBelow:
        EXPECT_GT(first.y, second.y + 20);
        break;
    }
    EXPECT_EQ(first.pixels > second.pixels, scene.first.size == 1);
  }
}

TEST(ShapesScene, ObjectsNeitherTouchNorLeaveTheImage) {
  for (std::uint64_t i = 0; i < 300; ++i) {
    CounterRandom random(6, RandomPurpose::kShapes, 9, i);
    // Two large ones, red and blue, are the closest there is.
    const SceneDescription scene{
        {1, 0, static_cast<int>(i % 3)}, {1, 2, static_cast<int>(i / 3 % 3)}, Relation(i % 4)};
    const cv::Mat image = draw_scene(scene, 84, random);
    const cv::Vec3b background = image.at<cv::Vec3b>(0, 0);
    const bool sideways = scene.relation == Relation::kLeftOf || scene.relation == Relation::kRightOf;
    const cv::Mat along = sideways ? image : cv::Mat(image.t());
    bool clear_line = false;
    for (int x = along.cols / 4; x < 3 * along.cols / 4; ++x) {
      bool clear = true;
      for (int y = 0; y < along.rows; ++y) clear = clear && along.at<cv::Vec3b>(y, x) == background;
      clear_line = clear_line || clear;
    }
    EXPECT_TRUE(clear_line) << scene_captions(scene).front();
    for (int j = 0; j < image.cols; ++j) {
      EXPECT_EQ(image.at<cv::Vec3b>(0, j), background);
      EXPECT_EQ(image.at<cv::Vec3b>(image.rows - 1, j), background);
      EXPECT_EQ(image.at<cv::Vec3b>(j, 0), background);
      EXPECT_EQ(image.at<cv::Vec3b>(j, image.cols - 1), background);
    }
  }
}

TEST(Shapes, HeldOutScenesAreNeverDescribedInTraining) {
  const TemporaryFolder folder;
  const ShapesOptions options = small_set(folder);
  const ShapesFiles files = make_shapes(options);
  ASSERT_EQ(files.train.size(), 3u);
  ASSERT_EQ(files.held_out.size(), 1u);
  EXPECT_EQ(files.train[2].filename(), "train-000002.tar");
  const auto train = data::WebDataset::open(files.train, null_logger());
  const auto held_out = data::WebDataset::open(files.held_out, null_logger());
  ASSERT_EQ(train->size(), options.train_count);
  ASSERT_EQ(held_out->size(), options.held_out_count);
  std::set<std::string> scenes;
  std::set<std::string> captions;
  std::set<std::string> ids;
  for (const auto& part : {train, held_out}) {
    for (std::int64_t i = 0; i < part->size(); ++i) {
      const data::Sample sample = part->read(i);
      ASSERT_EQ(sample.captions.size(), 2u);
      EXPECT_TRUE(ids.insert(sample.image_id).second);
      EXPECT_TRUE(scenes.insert(canonical(parse_caption(sample.captions[0]))).second) << sample.captions[0];
      for (const auto& caption : sample.captions) EXPECT_TRUE(captions.insert(caption).second) << caption;
      const cv::Mat image = data::decode_image(sample.image, sample.key);
      EXPECT_EQ(image.cols, 40);
    }
  }
}

TEST(Shapes, ALargeTrainingPartDrawsItsDescriptionsAgainUnderOneImageId) {
  const TemporaryFolder folder;
  ShapesOptions options = small_set(folder);
  options.train_count = 2 * (2448 - options.held_out_count) + 10;
  options.shard_size = 5000;
  options.image_size = 32;
  const ShapesFiles files = make_shapes(options);
  const auto train = data::WebDataset::open(files.train, null_logger());
  const auto held_out = data::WebDataset::open(files.held_out, null_logger());
  std::map<std::string, std::string> id_of_scene;
  std::map<std::string, std::vector<std::string>> pictures;
  for (std::int64_t i = 0; i < train->size(); ++i) {
    const data::Sample sample = train->read(i);
    const auto [known, is_new] =
        id_of_scene.emplace(canonical(parse_caption(sample.captions[0])), sample.image_id);
    EXPECT_EQ(known->second, sample.image_id);
    pictures[sample.image_id].emplace_back(reinterpret_cast<const char*>(sample.image.data()),
                                           sample.image.size());
  }
  EXPECT_EQ(id_of_scene.size(), 2448u - 25u);
  EXPECT_EQ(pictures.size(), id_of_scene.size());
  std::size_t thrice = 0;
  for (const auto& [id, of_one] : pictures) {
    EXPECT_GE(of_one.size(), 2u);
    EXPECT_NE(of_one[0], of_one[1]);
    thrice += of_one.size() == 3 ? 1 : 0;
  }
  EXPECT_EQ(thrice, 10u);
  for (std::int64_t i = 0; i < held_out->size(); ++i) {
    EXPECT_EQ(id_of_scene.count(canonical(parse_caption(held_out->read(i).captions[0]))), 0u);
  }
}

TEST(Shapes, TheRecordHoldsTheSceneForLaterJudgement) {
  const TemporaryFolder folder;
  const ShapesFiles files = make_shapes(small_set(folder));
  const std::string tar = data::read_bytes(files.held_out[0].string());
  std::size_t records = 0;
  for (std::size_t at = tar.find("{\"captions\""); at != std::string::npos;
       at = tar.find("{\"captions\"", at + 1)) {
    const auto record = nlohmann::json::parse(tar.substr(at, tar.find('\0', at) - at));
    const SceneDescription scene = scene_of(record.at("scene"));
    EXPECT_EQ(record.at("captions").get<std::vector<std::string>>(), scene_captions(scene));
    ++records;
  }
  EXPECT_EQ(records, 25u);
}

TEST(Shapes, AreAFunctionOfTheOptionsBitForBit) {
  const TemporaryFolder first;
  const TemporaryFolder second;
  ShapesOptions options = small_set(first);
  const ShapesFiles a = make_shapes(options);
  const std::string before = data::read_bytes(a.train[1].string());
  options.output = second.path();
  const ShapesFiles b = make_shapes(options);
  for (std::size_t i = 0; i < a.train.size(); ++i) {
    EXPECT_EQ(data::read_bytes(a.train[i].string()), data::read_bytes(b.train[i].string()));
  }
  EXPECT_EQ(data::read_bytes(a.held_out[0].string()), data::read_bytes(b.held_out[0].string()));
  options.seed = 4;
  make_shapes(options);
  EXPECT_NE(data::read_bytes(b.train[1].string()), before);
}

TEST(Shapes, BadOptionsAreErrors) {
  const TemporaryFolder folder;
  ShapesOptions options = small_set(folder);
  options.held_out_count = 2448 / 2 + 1;
  EXPECT_THAT(error_of([&] { make_shapes(options); }), HasSubstr("held-out scenes: expected 1 … 1224"));
  for (const auto& spoil : std::vector<void (*)(ShapesOptions&)>{
           [](ShapesOptions& o) { o.train_count = 0; }, [](ShapesOptions& o) { o.held_out_count = -1; },
           [](ShapesOptions& o) { o.image_size = 8; }, [](ShapesOptions& o) { o.shard_size = 0; },
           [](ShapesOptions& o) { o.output = "/proc/nowhere"; }}) {
    options = small_set(folder);
    spoil(options);
    EXPECT_THAT(error_of([&] { make_shapes(options); }), HasSubstr("shapes: "));
  }
  options = small_set(folder);
  make_shapes(options);
  options.train_count = 40;
  EXPECT_THAT(error_of([&] { make_shapes(options); }), HasSubstr("train-000001.tar"));
}

}  // namespace
}  // namespace tessera::shapes
