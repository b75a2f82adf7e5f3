#include <cstdio>
#include <iostream>

#include "command_line.h"
#include "core/error.h"
#include "core/logging.h"
#include "core/text_file.h"
#include "core/utf8.h"
#include "data/open_source.h"
#include "language/tokenizer_training.h"
#include "tessera/commands.h"

namespace tessera::apps {

namespace options = boost::program_options;

namespace {

std::vector<std::string> words(const options::variables_map& values, const char* name) {
  return values.count(name) != 0 ? values[name].as<std::vector<std::string>>() : std::vector<std::string>{};
}

void add_captions(const std::vector<std::string>& patterns, const data::DataConfig& options,
                  std::vector<std::string>& sentences) {
  if (patterns.empty()) return;
  const Logger logger = make_logger({});
  const auto dataset = data::open_source(patterns, options, logger);
  std::int64_t broken = 0;
  for (std::int64_t i = 0; i < dataset->size(); ++i) {
    try {
      data::Sample sample = dataset->read_captions(i);
      for (std::string& caption : sample.captions) sentences.push_back(std::move(caption));
    } catch (const Error& error) {
      logger->warn("{}; left out", error.what());
      ++broken;
    }
  }
  if (broken == dataset->size()) fail("{}: no sample has captions that can be read", patterns.front());
}

void add_lines(const std::string& path, std::vector<std::string>& sentences) {
  std::int64_t left_out = 0, number = 0;
  std::string first;
  for (std::string& line : lines_of(read_text_file(path))) {
    ++number;
    try {
      check_utf8(line, fmt::format("{}:{}", path, number));
    } catch (const Error& error) {
      if (left_out++ == 0) first = error.what();
      continue;
    }
    if (!line.empty()) sentences.push_back(std::move(line));
  }
  if (left_out == 0) return;
  if (left_out == number) fail("{}", first);
  std::fprintf(
      stderr,
      "tessera train-tokenizer: warning: %lld of %lld lines are no UTF-8 and left out; the first: %s\n",
      static_cast<long long>(left_out), static_cast<long long>(number), first.c_str());
}

}  // namespace

int train_tokenizer_command(const std::vector<std::string>& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("output,o", options::value<std::string>()->required(), "the .model file to write")
      ("shards", options::value<std::vector<std::string>>()->composing(),
       "WebDataset shards, or CSV or TSV tables, whose captions to learn from, braces allowed; may be given many times")
      ("text", options::value<std::vector<std::string>>()->composing(),
       "text file, a sentence a line; may be given many times")
      ("vocab-size", options::value<std::int64_t>()->default_value(language::TokenizerTrainingOptions{}.vocab_size), "entries, special ones included")
      ("shrink", "where the data is too small for --vocab-size, take the largest vocabulary that it allows");
  // clang-format on
  add_table_option(description);
  const auto values = parse_options(
      "Trains a SentencePiece tokenizer (byte-pair, no normalisation, byte fallback; pad 0, unk 1, bos 2, "
      "eos 3, mask 4).\n\nUsage: tessera train-tokenizer --output FILE (--shards SHARDS | --text FILE)... "
      "[OPTIONS]\n",
      description, arguments);
  if (!values) return kDone;

  std::vector<std::string> sentences;
  data::DataConfig data;
  apply_table_option(*values, data.table);
  add_captions(words(*values, "shards"), data, sentences);
  for (const std::string& path : words(*values, "text")) add_lines(path, sentences);
  if (sentences.empty())
    throw ConfigError("train-tokenizer: name something to learn from with --shards or --text");
  language::TokenizerTrainingOptions training;
  training.vocab_size = (*values)["vocab-size"].as<std::int64_t>();
  training.hard_vocab_limit = values->count("shrink") == 0;
  const std::string output = (*values)["output"].as<std::string>();
  const language::Tokenizer tokenizer = language::train_tokenizer(sentences, output, training);
  std::cout << output << ": " << tokenizer.vocab_size() << " entries from " << sentences.size()
            << " sentences\n";
  return kDone;
}

}  // namespace tessera::apps
