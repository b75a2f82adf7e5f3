#include "shapes/scene.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <opencv2/imgproc.hpp>

#include "core/error.h"

namespace tessera::shapes {
namespace {

// Lengths are fractions of the image's edge. The largest outline reaches kRadius[1] · (1 + kSizeJitter) =
// 0.205 from its centre and centres of a pair lie at least 0.48 apart along the relation's axis.
constexpr std::array<double, 2> kRadius = {0.12, 0.19};
constexpr double kSizeJitter = 0.08;
constexpr double kNearMin = 0.24, kNearMax = 0.26;
constexpr double kFarMin = 0.74, kFarMax = 0.76;
constexpr double kAcrossMin = 0.43, kAcrossMax = 0.57;
constexpr double kAcrossDifference = 0.05;
constexpr int kSupersampling = 4;
constexpr int kShift = 8;  // fractional bits of the corners that OpenCV fills between

using Rgb = std::array<int, 3>;
constexpr std::array<Rgb, 6> kColors = {
    {{220, 40, 40}, {40, 170, 60}, {40, 80, 220}, {240, 220, 40}, {245, 140, 30}, {140, 50, 180}}};
constexpr int kShadeJitter = 15;
constexpr int kBackgroundMin = 200, kBackgroundMax = 245, kTintJitter = 10;

enum Shape { kCircle, kTriangle, kCross };

/// Corners around the origin; radius 1 reaches about as far as a circle of that radius.
std::vector<cv::Point2d> unit_outline(int shape) {
  std::vector<cv::Point2d> corners;
  const auto polar = [&](double radius, double turn) {
    const double angle = 2 * std::numbers::pi * turn;
    corners.emplace_back(radius * std::sin(angle), -radius * std::cos(angle));
  };
  constexpr double kHalfArm = 0.36;
  switch (shape) {
    case kCircle:
      for (int i = 0; i < 96; ++i) polar(1.0, i / 96.0);
      break;
    case kTriangle:
      corners = {{0, -1}, {1, 0.8}, {-1, 0.8}};
      break;
    case kCross:
      corners = {{-kHalfArm, -1},       {kHalfArm, -1},       {kHalfArm, -kHalfArm}, {1, -kHalfArm},
                 {1, kHalfArm},         {kHalfArm, kHalfArm}, {kHalfArm, 1},         {-kHalfArm, 1},
                 {-kHalfArm, kHalfArm}, {-1, kHalfArm},       {-1, -kHalfArm},       {-kHalfArm, -kHalfArm}};
      break;
    default:
      TORCH_CHECK(false, "no shape ", shape);
  }
  return corners;
}

int jittered(CounterRandom& random, int value, int by) {
  const int offset = static_cast<int>(random.below(static_cast<std::uint64_t>(2 * by + 1))) - by;
  return std::clamp(value + offset, 0, 255);
}

cv::Scalar jittered_color(CounterRandom& random, const Rgb& color, int by) {
  const int red = jittered(random, color[0], by);
  const int green = jittered(random, color[1], by);
  const int blue = jittered(random, color[2], by);
  return cv::Scalar(blue, green, red);
}

void draw_object(cv::Mat& canvas, const SceneObject& object, cv::Point2d centre, CounterRandom& random) {
  const double edge = canvas.cols;
  const double radius = edge * kRadius.at(static_cast<std::size_t>(object.size)) *
                        random.uniform(1 - kSizeJitter, 1 + kSizeJitter);
  const cv::Scalar color =
      jittered_color(random, kColors.at(static_cast<std::size_t>(object.color)), kShadeJitter);
  std::vector<cv::Point> corners;
  for (const auto& corner : unit_outline(object.shape)) {
    const cv::Point2d place = centre * edge + corner * radius;
    // OpenCV's pixel (0, 0) has its centre at the origin, ours at (½, ½).
    corners.emplace_back(static_cast<int>(std::lround((place.x - 0.5) * (1 << kShift))),
                         static_cast<int>(std::lround((place.y - 0.5) * (1 << kShift))));
  }
  cv::fillPoly(canvas, std::vector<std::vector<cv::Point>>{corners}, color, cv::LINE_8, kShift);
}

std::string words(const SceneObject& object) {
  return fmt::format("{} {} {}", scene_sizes().at(static_cast<std::size_t>(object.size)),
                     scene_colors().at(static_cast<std::size_t>(object.color)),
                     scene_shapes().at(static_cast<std::size_t>(object.shape)));
}

const std::string& words(Relation relation) {
  return scene_relations().at(static_cast<std::size_t>(relation));
}

const std::string& place_word(int place) { return scene_places().at(static_cast<std::size_t>(place)); }

nlohmann::json object_json(const SceneObject& object) {
  return {{"size", scene_sizes().at(static_cast<std::size_t>(object.size))},
          {"color", scene_colors().at(static_cast<std::size_t>(object.color))},
          {"shape", scene_shapes().at(static_cast<std::size_t>(object.shape))}};
}

}  // namespace

const std::vector<std::string>& scene_sizes() {
  static const std::vector<std::string> words = {"small", "large"};
  return words;
}

const std::vector<std::string>& scene_colors() {
  static const std::vector<std::string> words = {"red", "green", "blue", "yellow", "orange", "purple"};
  return words;
}

const std::vector<std::string>& scene_shapes() {
  static const std::vector<std::string> words = {"circle", "triangle", "cross"};
  return words;
}

const std::vector<std::string>& scene_relations() {
  static const std::vector<std::string> words = {"left of", "right of", "above", "below"};
  return words;
}

SceneDescription told_from_second(const SceneDescription& scene) {
  constexpr std::array kInverse = {Relation::kRightOf, Relation::kLeftOf, Relation::kBelow, Relation::kAbove};
  return {scene.second, scene.first, kInverse.at(static_cast<std::size_t>(scene.relation))};
}

std::vector<SceneDescription> canonical_descriptions() {
  std::vector<SceneObject> objects;
  for (int size = 0; size < static_cast<int>(scene_sizes().size()); ++size) {
    for (int color = 0; color < static_cast<int>(scene_colors().size()); ++color) {
      for (int shape = 0; shape < static_cast<int>(scene_shapes().size()); ++shape)
        objects.push_back({size, color, shape});
    }
  }
  std::vector<SceneDescription> result;
  for (const auto& first : objects) {
    for (const auto& second : objects) {
      if (first.color == second.color && first.shape == second.shape) continue;
      for (const Relation relation : {Relation::kLeftOf, Relation::kAbove})
        result.push_back({first, second, relation});
    }
  }
  return result;
}

const std::vector<std::string>& scene_places() {
  static const std::vector<std::string> words = {"left", "right", "top", "bottom"};
  return words;
}

int first_place(const SceneDescription& scene) { return static_cast<int>(scene.relation); }

int second_place(const SceneDescription& scene) { return first_place(told_from_second(scene)); }

std::vector<std::string> scene_captions(const SceneDescription& scene) {
  std::vector<std::string> captions;
  for (const SceneDescription& told : {scene, told_from_second(scene)}) {
    captions.push_back(fmt::format("{} a {}, {} a {}", place_word(first_place(told)), words(told.first),
                                   place_word(second_place(told)), words(told.second)));
  }
  return captions;
}

nlohmann::json scene_json(const SceneDescription& scene) {
  return {{"objects", {object_json(scene.first), object_json(scene.second)}},
          {"relation", words(scene.relation)}};
}

cv::Mat draw_scene(const SceneDescription& scene, std::int64_t image_size, CounterRandom& random) {
  const int edge = static_cast<int>(image_size) * kSupersampling;
  const int grey = kBackgroundMin + static_cast<int>(random.below(kBackgroundMax - kBackgroundMin + 1));
  cv::Mat canvas(edge, edge, CV_8UC3, jittered_color(random, {grey, grey, grey}, kTintJitter));

  const double near = random.uniform(kNearMin, kNearMax);
  const double far = random.uniform(kFarMin, kFarMax);
  const double across = random.uniform(kAcrossMin, kAcrossMax);
  const double across_other =
      std::clamp(across + random.uniform(-kAcrossDifference, kAcrossDifference), kAcrossMin, kAcrossMax);
  const bool sideways = scene.relation == Relation::kLeftOf || scene.relation == Relation::kRightOf;
  const bool first_is_near = scene.relation == Relation::kLeftOf || scene.relation == Relation::kAbove;
  const double first_along = first_is_near ? near : far;
  const double second_along = first_is_near ? far : near;
  const cv::Point2d first = sideways ? cv::Point2d(first_along, across) : cv::Point2d(across, first_along);
  const cv::Point2d second =
      sideways ? cv::Point2d(second_along, across_other) : cv::Point2d(across_other, second_along);
  draw_object(canvas, scene.first, first, random);
  draw_object(canvas, scene.second, second, random);

  cv::Mat image;
  const int size = static_cast<int>(image_size);
  cv::resize(canvas, image, cv::Size(size, size), 0, 0, cv::INTER_AREA);
  return image;
}

}  // namespace tessera::shapes
