// tessera memory: pairs written into a memory file, recalled and forgotten, with a trained model.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <filesystem>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "command_line.h"
#include "core/error.h"
#include "core/folder_lock.h"
#include "core/logging.h"
#include "core/text_file.h"
#include "core/utf8.h"
#include "data/loader.h"
#include "data/open_source.h"
#include "eval/distinct_images.h"
#include "eval/encode.h"
#include "inference/encode_inputs.h"
#include "inference/memory_recall.h"
#include "model_tool.h"
#include "tessera/commands.h"
#include "tessera/memory_experiment.h"
#include "tessera/subcommands.h"

namespace tessera::apps {

namespace options = boost::program_options;
namespace fs = std::filesystem;

namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

void add_memory_option(options::options_description& description) {
  description.add_options()("memory", options::value<std::string>()->required(),
                            "the memory's file (safetensors)");
}

void add_json_option(options::options_description& description) {
  description.add_options()("json", "print one JSON object instead of lines for people");
}

fs::path memory_file(const options::variables_map& values) { return values["memory"].as<std::string>(); }

/// Two programs that change one memory take turns, or the later would undo the earlier.
FolderLock lock_for_change(const fs::path& file) { return FolderLock(file.parent_path()); }

/// Listing and forgetting need no model: whichever model's codes these are.
memory::MemoryStore load_file(const options::variables_map& values) {
  return memory::MemoryStore::load(memory_file(values), std::nullopt);
}

Json to_json(const memory::MemoryEntry& entry) {
  return {{"id", entry.id}, {"caption", entry.caption}, {"image", entry.image}};
}

/// A line of a table.
struct TableRow {
  std::string image, caption, id;
};

/// IMAGE<tab>CAPTION or IMAGE<tab>CAPTION<tab>ID a line; images relative to the file's folder. All lines are
/// looked at before the first image is.
std::vector<TableRow> read_table(const fs::path& file) {
  std::vector<TableRow> rows;
  std::int64_t number = 0;
  for (const std::string& line : read_lines(file)) {
    ++number;
    if (line.empty()) continue;
    const std::string where = fmt::format("{}:{}", file.string(), number);
    const std::size_t first = line.find('\t');
    if (first == std::string::npos || first == 0) {
      fail("{}: expected IMAGE<tab>CAPTION or IMAGE<tab>CAPTION<tab>ID, found '{}'", where, line);
    }
    check_utf8(line.substr(first + 1), where + ": what is behind the image's name");
    const std::size_t second = line.find('\t', first + 1);
    rows.push_back({(file.parent_path() / line.substr(0, first)).string(),
                    line.substr(first + 1, second == std::string::npos ? second : second - first - 1),
                    second == std::string::npos ? "" : line.substr(second + 1)});
  }
  return rows;
}

/// Writes pairs into a store, each with the code of image and caption.
class PairWriter {
 public:
  PairWriter(const inference::TrainedModel& trained, memory::MemoryStore& store, bool skips_existing)
      : trained_(trained), store_(store), skips_existing_(skips_existing) {
    for (const memory::MemoryEntry& entry : store.list()) ids_.insert(entry.id);
  }

  void add_image(const std::string& file, const std::string& caption, const std::string& id) {
    const memory::MemoryEntry entry{id.empty() ? as_utf8(file) : as_utf8(id), caption, as_utf8(file)};
    if (!is_new(entry.id)) return;
    const at::Tensor pixels = inference::read_image(file, trained_.config.data.image_size);
    const at::Tensor codes = inference::memory_codes(trained_, pixels.unsqueeze(0), {caption}, {file});
    write(codes[0], entry);
  }

  void add_table(const fs::path& file, std::int64_t limit) {
    std::vector<TableRow> rows = read_table(file);
    if (static_cast<std::int64_t>(rows.size()) > limit) rows.resize(static_cast<std::size_t>(limit));
    for (const TableRow& row : rows) add_image(row.image, row.caption, row.id);
  }

  /// Every image (image_id) once, with the first of its captions, under its sample's key.
  void add_shards(const Words& shards, std::int64_t limit) {
    const Logger logger = make_logger({});
    data::EvalLoader loader(data::open_source(shards, trained_.config.data, logger), trained_.config.data,
                            trained_.config.eval.batch_size, logger);
    eval::DistinctImages distinct;
    for (std::int64_t seen = 0; seen < limit;) {
      const std::optional<data::EvalBatch> batch = loader.next();
      if (!batch) break;
      // Of an image that comes with a sample a caption, only the first: a picture could not tell them apart.
      const std::vector<std::int64_t> samples = distinct.place(batch->image_ids).first;
      repeated_ += batch->image_ids.size(0) - static_cast<std::int64_t>(samples.size());
      std::vector<memory::MemoryEntry> entries;
      Words captions, keys;
      std::vector<std::int64_t> rows;
      for (std::size_t i = 0; i < samples.size() && seen < limit; ++i, ++seen) {
        const auto sample = static_cast<std::size_t>(samples[i]);
        const std::string key = as_utf8(batch->keys[sample]);
        if (!is_new(key)) continue;
        rows.push_back(samples[i]);
        captions.push_back(batch->captions[sample].front());
        keys.push_back(key);
        entries.push_back({key, captions.back(), key});
      }
      if (rows.empty()) continue;
      const at::Tensor pixels = batch->pixels.index_select(0, at::tensor(rows, at::kLong));
      const at::Tensor codes = inference::memory_codes(trained_, pixels, captions, keys);
      for (std::size_t i = 0; i < entries.size(); ++i) write(codes[static_cast<std::int64_t>(i)], entries[i]);
    }
  }

  std::int64_t written() const { return written_; }
  std::int64_t skipped() const { return skipped_; }
  /// Samples of shards whose image was there already, under the same image_id.
  std::int64_t repeated() const { return repeated_; }

 private:
  /// Whether an entry is to be written; before the work on it.
  bool is_new(const std::string& id) {
    if (ids_.count(id) == 0) return true;
    if (!skips_existing_) {
      fail("memory: '{}' is already there; forget it first, or leave out what is there with --skip-existing",
           id);
    }
    ++skipped_;
    return false;
  }

  void write(const at::Tensor& code, const memory::MemoryEntry& entry) {
    store_.write(code, entry);
    ids_.insert(entry.id);
    ++written_;
  }

  const inference::TrainedModel& trained_;
  memory::MemoryStore& store_;
  bool skips_existing_;
  std::set<std::string> ids_;
  std::int64_t written_ = 0, skipped_ = 0, repeated_ = 0;
};

/// What is to be written: exactly one of an image, a table and shards.
void check_sources(const options::variables_map& values) {
  const std::size_t sources = values.count("image") + values.count("tsv") + values.count("shards");
  if (sources != 1)
    throw ConfigError("memory write: name one of IMAGE (with --caption), --tsv and --shards; see --help");
  if ((values.count("image") != 0) != (values.count("caption") != 0))
    throw ConfigError("memory write: IMAGE and --caption belong together");
  if (!values["id"].as<std::string>().empty() && values.count("image") == 0)
    throw ConfigError("memory write: --id belongs to IMAGE");
}

int write_action(const Words& arguments) {
  options::options_description description("Options");
  add_model_tool_options(description);
  add_memory_option(description);
  add_table_option(description);
  add_broken_fraction_option(description);
  // clang-format off
  description.add_options()
      ("image", options::value<std::string>(), "picture to remember; a word without a name is one")
      ("caption", options::value<std::string>(), "what is to be remembered of IMAGE")
      ("id", options::value<std::string>()->default_value(""), "what to call it; default: IMAGE as it is written here")
      ("tsv", options::value<std::string>(),
       "many pairs: IMAGE<tab>CAPTION or IMAGE<tab>CAPTION<tab>ID a line; images relative to the file")
      ("shards", options::value<Words>()->composing(),
       "many pairs: WebDataset shards, or CSV or TSV tables, braces allowed; each image (image_id) once, with the first of its captions, called by its key")
      ("limit", options::value<std::int64_t>(), "of --tsv or --shards, only so many of the first")
      ("skip-existing", "leave out pairs whose id is there already; else they are an error");
  // clang-format on
  options::positional_options_description positional;
  positional.add("image", 1);
  const auto values = parse_options(
      "Writes pairs of image and caption into a memory, without training anything. The file is made where "
      "there is none, and\nreplaced as a whole or not at all; two programs that change it take turns.\n\n"
      "Usage: tessera memory write IMAGE --caption TEXT [--id ID] --model FOLDER --memory FILE\n"
      "       tessera memory write --shards SHARDS [--limit N] --model FOLDER --memory FILE\n",
      description, arguments, positional);
  if (!values) return kDone;
  check_sources(*values);

  ModelTool model(*values);
  apply_table_option(*values, model.loaded.config.data.table);
  apply_broken_fraction(*values, model.loaded.config);
  const inference::TrainedModel trained = model.trained();
  const fs::path file = memory_file(*values);
  const FolderLock lock = lock_for_change(file);
  memory::MemoryStore store =
      fs::exists(file) ? inference::load_memory(trained, file) : inference::new_memory(trained);
  PairWriter writer(trained, store, values->count("skip-existing") != 0);
  const std::int64_t limit =
      values->count("limit") != 0 ? count_of(*values, "limit", 1) : std::numeric_limits<std::int64_t>::max();
  if (values->count("image") != 0) {
    warn_of_cut_texts("tessera memory write", trained, {(*values)["caption"].as<std::string>()});
    writer.add_image((*values)["image"].as<std::string>(), (*values)["caption"].as<std::string>(),
                     (*values)["id"].as<std::string>());
  } else if (values->count("tsv") != 0) {
    writer.add_table((*values)["tsv"].as<std::string>(), limit);
  } else {
    writer.add_shards(words_of(*values, "shards"), limit);
  }
  store.save(file);
  const auto entries = static_cast<std::int64_t>(store.list().size());
  const std::string skipped =
      writer.skipped() > 0 ? fmt::format("{} were there already, ", writer.skipped()) : "";
  std::cout << fmt::format("{}: {} written, {}{} entries, capacity {}\n", file.string(), writer.written(),
                           skipped, entries, store.capacity());
  if (writer.repeated() > 0) {
    std::cerr << fmt::format(
        "tessera memory: {} left out: the image was written from a sample before with the same image_id\n",
        writer.repeated() == 1 ? "1 sample" : fmt::format("{} samples", writer.repeated()));
  }
  if (entries >= store.capacity()) {
    std::cerr << fmt::format(
        "tessera memory: {} entries fill the capacity of {}: written and never-written pairs can't be told "
        "apart any more\n",
        entries, store.capacity());
  }
  return kDone;
}

Json to_json(const inference::Recall& recall) {
  Json nearest = Json::array();
  for (const memory::NearEntry& near : recall.recollection.nearest) {
    nearest.push_back(to_json(near.entry));
    nearest.back()["similarity"] = near.similarity;
  }
  return {{"answer", recall.answer},
          {"confidence", recall.recollection.confidence},
          {"nearest", std::move(nearest)}};
}

void print_recall(const inference::Recall& recall) {
  std::cout << fmt::format("{}\nconfidence {:.2f}\n", recall.answer, recall.recollection.confidence);
  for (const memory::NearEntry& near : recall.recollection.nearest) {
    std::cout << fmt::format("  {:.3f}  {}  \"{}\"\n", near.similarity, near.entry.id, near.entry.caption);
  }
}

int recall_action(const Words& arguments) {
  options::options_description description("Options");
  add_model_tool_options(description);
  add_memory_option(description);
  // clang-format off
  description.add_options()
      ("image", options::value<std::string>(), "picture to ask about; a word without a name is one")
      ("text", options::value<std::string>(), "words to ask about, instead of a picture")
      ("nearest", options::value<std::int64_t>()->default_value(3), "how many of the nearest entries to list");
  // clang-format on
  add_json_option(description);
  options::positional_options_description positional;
  positional.add("image", 1);
  const auto values = parse_options(
      "Asks a memory about a picture or words. The first line is the answer, decoded from what the memory "
      "gives back and\nwithout the picture; then how sure the memory is that it knows the pair (0 to 1), and "
      "the entries nearest to what it\ngave back.\n\n"
      "Usage: tessera memory recall (--image FILE | --text TEXT) --model FOLDER --memory FILE [OPTIONS]\n",
      description, arguments, positional);
  if (!values) return kDone;
  if (values->count("image") + values->count("text") != 1)
    throw ConfigError("memory recall: name one of --image and --text");
  const std::int64_t nearest = count_of(*values, "nearest", 0);

  const ModelTool model(*values);
  const inference::TrainedModel trained = model.trained();
  const memory::MemoryStore store = inference::load_memory(trained, memory_file(*values));
  at::Tensor pixels;
  Words texts, names;
  if (values->count("image") != 0) {
    names.push_back((*values)["image"].as<std::string>());
    pixels = inference::read_image(names.front(), trained.config.data.image_size).unsqueeze(0);
  } else {
    texts.push_back((*values)["text"].as<std::string>());
  }
  const inference::Recall recall =
      inference::recall(trained, store, inference::memory_codes(trained, pixels, texts, names)[0], nearest);
  if (values->count("json") != 0) {
    std::cout << dumped(to_json(recall));
  } else {
    print_recall(recall);
  }
  return kDone;
}

int forget_action(const Words& arguments) {
  options::options_description description("Options");
  add_memory_option(description);
  description.add_options()("id", options::value<Words>()->composing(),
                            "what to forget; words without a name are ids");
  options::positional_options_description positional;
  positional.add("id", -1);
  const auto values = parse_options(
      "Forgets entries: the memory is afterwards what it would be had they never been written. Where one of "
      "the ids is not\nthere, nothing is forgotten.\n\nUsage: tessera memory forget ID... --memory FILE\n",
      description, arguments, positional);
  if (!values) return kDone;
  if (values->count("id") == 0) throw ConfigError("memory forget: name the ids to forget");
  const FolderLock lock = lock_for_change(memory_file(*values));
  memory::MemoryStore store = load_file(*values);
  const Words ids = (*values)["id"].as<Words>();
  for (const std::string& id : ids) store.forget(as_utf8(id));
  store.save(memory_file(*values));
  std::cout << fmt::format("{}: {} forgotten, {} entries left\n", memory_file(*values).string(), ids.size(),
                           store.list().size());
  return kDone;
}

int list_action(const Words& arguments) {
  options::options_description description("Options");
  add_memory_option(description);
  add_json_option(description);
  const auto values = parse_options(
      "Lists what is in a memory, in the order of writing: id, caption, image, a tab between.\n\n"
      "Usage: tessera memory list --memory FILE [--json]\n",
      description, arguments);
  if (!values) return kDone;
  const memory::MemoryStore store = load_file(*values);
  if (values->count("json") != 0) {
    Json entries = Json::array();
    for (const memory::MemoryEntry& entry : store.list()) entries.push_back(to_json(entry));
    std::cout << dumped({{"entries", std::move(entries)}});
    return kDone;
  }
  for (const memory::MemoryEntry& entry : store.list())
    std::cout << fmt::format("{}\t{}\t{}\n", entry.id, entry.caption, entry.image);
  return kDone;
}

int stats_action(const Words& arguments) {
  options::options_description description("Options");
  add_memory_option(description);
  add_json_option(description);
  const auto values = parse_options(
      "Says how full a memory is and how well it can be solved.\n\nUsage: tessera memory stats --memory FILE "
      "[--json]\n",
      description, arguments);
  if (!values) return kDone;
  const memory::MemoryStore store = load_file(*values);
  const memory::MemoryStats stats = store.stats();
  if (values->count("json") != 0) {
    std::cout << dumped({{"entries", stats.entries},
                         {"capacity", stats.capacity},
                         {"code_size", stats.code_size},
                         {"rank", stats.rank},
                         {"condition", stats.condition},
                         {"drift", stats.drift},
                         {"bytes", stats.bytes},
                         {"model", store.fingerprint()}});
    return kDone;
  }
  std::cout << fmt::format(
      "entries    {}\ncapacity   {}   nothing is refused beyond it, and nothing told apart\n"
      "code size  {}\nrank       {}   dimensions that are read\n"
      "condition  {:.3g}   largest over smallest singular value\n"
      "drift      {:.2g}   from a memory solved anew from the codes\nbytes      {}\nmodel      {}\n",
      stats.entries, stats.capacity, stats.code_size, stats.rank, stats.condition, stats.drift, stats.bytes,
      store.fingerprint());
  return kDone;
}

constexpr Subcommand kActions[] = {
    {"write", write_action, "write pairs of image and caption"},
    {"recall", recall_action, "ask about a picture or words"},
    {"forget", forget_action, "forget entries by their id"},
    {"list", list_action, "list the entries"},
    {"stats", stats_action, "say how full the memory is"},
    {"experiment", memory_experiment_action, "measure recall and forgetting on held-out pairs"},
};

}  // namespace

int memory_command(const Words& arguments) {
  return run_subcommand({"tessera memory", "action",
                         "An episodic memory over a trained model: pairs are written, recalled and forgotten "
                         "without training anything.",
                         kActions},
                        arguments);
}

}  // namespace tessera::apps
