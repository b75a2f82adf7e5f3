#include "shapes/scene_judge.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>
#include <utility>

#include "core/error.h"

namespace tessera::shapes {
namespace {

using Words = std::vector<std::string>;

/// Lower-case words; whatever is neither letter nor digit separates them.
Words words_of(std::string_view text) {
  Words words;
  bool inside = false;
  for (const char character : text) {
    const auto byte = static_cast<unsigned char>(character);
    const bool letter = std::isalnum(byte) != 0 || byte >= 0x80;
    if (letter && !inside) words.emplace_back();
    if (letter) words.back() += static_cast<char>(std::tolower(byte));
    inside = letter;
  }
  return words;
}

int index_in(const std::vector<std::string>& table, const std::string& word) {
  const auto found = std::find(table.begin(), table.end(), word);
  return found == table.end() ? kUnsaid : static_cast<int>(found - table.begin());
}

/// The words that hold a caption together: those of the wordings that name nothing.
std::set<std::string> filler_words() {
  std::set<std::string> fillers;
  for (const std::string& caption : scene_captions(canonical_descriptions().front())) {
    for (std::string& word : words_of(caption)) fillers.insert(std::move(word));
  }
  for (const auto* table : {&scene_sizes(), &scene_colors(), &scene_shapes(), &scene_places()}) {
    for (const std::string& word : *table) fillers.erase(word);
  }
  return fillers;
}

void say(int& fact, int value) { fact = fact == kUnsaid || fact == value ? value : kConflicting; }

/// Reads a caption word by word.
class Reader {
 public:
  void read_word(const std::string& word) {
    static const std::set<std::string> fillers = filler_words();
    if (const int place = index_in(scene_places(), word); place != kUnsaid) {
      object_is_open_ = false;
      say(place_of_next_, place);
    } else if (const int size = index_in(scene_sizes(), word); size != kUnsaid) {
      say(open_object().size, size);
    } else if (const int color = index_in(scene_colors(), word); color != kUnsaid) {
      say(open_object().color, color);
    } else if (const int shape = index_in(scene_shapes(), word); shape != kUnsaid) {
      say(open_object().shape, shape);
      object_is_open_ = false;  // the noun comes last
    } else if (fillers.count(word) == 0) {
      said_.says_more = true;
    }
  }

  SaidScene result() {
    if (!objects_.empty()) said_.first = objects_[0];
    if (objects_.size() > 1) said_.second = objects_[1];
    said_.says_more = said_.says_more || objects_.size() > 2 || place_of_next_ != kUnsaid;
    return said_;
  }

 private:
  SaidObject& open_object() {
    if (!object_is_open_) objects_.push_back({.place = std::exchange(place_of_next_, kUnsaid)});
    object_is_open_ = true;
    return objects_.back();
  }

  SaidScene said_;
  std::vector<SaidObject> objects_;
  bool object_is_open_ = false;
  int place_of_next_ = kUnsaid;
};

void count(FactCount& facts, int said, int actual) {
  facts.said += said == kUnsaid ? 0 : 1;
  facts.correct += said == actual ? 1 : 0;
}

CaptionJudgement judge_one_telling(const SaidScene& said, const SceneDescription& scene) {
  CaptionJudgement result;
  count(result.size, said.first.size, scene.first.size);
  count(result.size, said.second.size, scene.second.size);
  count(result.color, said.first.color, scene.first.color);
  count(result.color, said.second.color, scene.second.color);
  count(result.shape, said.first.shape, scene.first.shape);
  count(result.shape, said.second.shape, scene.second.shape);
  result.relation.said = said.first.place != kUnsaid || said.second.place != kUnsaid ? 1 : 0;
  result.relation.correct =
      said.first.place == first_place(scene) && said.second.place == second_place(scene) ? 1 : 0;
  for (const FactCount& facts : {result.size, result.color, result.shape, result.relation}) {
    result.facts_said += facts.said;
    result.facts_true += facts.correct;
  }
  result.wholly_true = result.facts_true == kSceneFacts && !said.says_more;
  return result;
}

int index_from_json(const nlohmann::json& object, const char* key, const std::vector<std::string>& table,
                    const std::string& name) {
  const auto value = object.find(key);
  if (value == object.end()) fail("{}: '{}' is missing", name, key);
  const int index = value->is_string() ? index_in(table, value->get<std::string>()) : kUnsaid;
  if (index == kUnsaid) {
    fail("{}: '{}': expected one of {}, found {}", name, key, nlohmann::json(table).dump(), value->dump());
  }
  return index;
}

SceneObject object_from_json(const nlohmann::json& object, const std::string& name) {
  if (!object.is_object()) fail("{}: expected a JSON object, found {}", name, object.type_name());
  return {index_from_json(object, "size", scene_sizes(), name),
          index_from_json(object, "color", scene_colors(), name),
          index_from_json(object, "shape", scene_shapes(), name)};
}

}  // namespace

SaidScene parse_scene_caption(std::string_view caption) {
  const Words all = words_of(caption);
  Words words;
  std::unique_copy(all.begin(), all.end(), std::back_inserter(words));
  Reader reader;
  for (const std::string& word : words) reader.read_word(word);
  return reader.result();
}

CaptionJudgement judge(const SaidScene& said, const SceneDescription& scene) {
  const CaptionJudgement first = judge_one_telling(said, scene);
  const CaptionJudgement second = judge_one_telling(said, told_from_second(scene));
  const auto merit = [](const CaptionJudgement& judgement) {
    return std::tuple(judgement.facts_true, judgement.relation.correct, judgement.shape.correct,
                      judgement.color.correct);
  };
  return merit(second) > merit(first) ? second : first;
}

CaptionJudgement judge_caption(std::string_view caption, const SceneDescription& scene) {
  return judge(parse_scene_caption(caption), scene);
}

SceneDescription scene_from_json(const nlohmann::json& scene, const std::string& name) {
  if (!scene.is_object()) fail("{}: expected a JSON object, found {}", name, scene.type_name());
  const auto objects = scene.find("objects");
  if (objects == scene.end() || !objects->is_array() || objects->size() != 2) {
    fail("{}: 'objects': expected a list of two, found {}", name,
         objects == scene.end() ? "none" : objects->dump());
  }
  return {object_from_json((*objects)[0], name + ": first object"),
          object_from_json((*objects)[1], name + ": second object"),
          Relation(index_from_json(scene, "relation", scene_relations(), name))};
}

}  // namespace tessera::shapes
