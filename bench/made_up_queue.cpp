#include "bench/made_up_queue.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>

#include "core/archive.h"

namespace tessera::bench {

namespace {

constexpr const char* kQueue = "itc_queue";

std::string column(const char* name) { return fmt::format("{}.{}", kQueue, name); }

}  // namespace

losses::ItcQueue queue_in(const Archive& state) {
  const at::Tensor embeddings = state.get(column("image"));
  losses::QueuePayloadShape payload;
  if (state.contains(column("image_tokens"))) {
    const at::IntArrayRef tokens = state.tensors().at(column("image_tokens")).sizes();
    payload = {tokens[1], tokens[2], state.tensors().at(column("token_ids")).size(1)};
  }
  losses::ItcQueue queue(embeddings.size(0), embeddings.size(1), at::kCPU, payload);
  queue.load(state);
  return queue;
}

void fill_queue(Archive& state, const language::Tokenizer& tokenizer,
                const std::vector<std::string>& captions) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{1});
  const auto find = [&](const char* name) { return state.tensors().at(column(name)); };
  for (const char* side : {"image", "text"}) {
    const at::Tensor directions = find(side).normal_(0, 1, generator);
    directions.div_(directions.norm(2, {1}, /*keepdim=*/true));
  }
  const at::Tensor ids = find("image_ids");
  const std::int64_t pairs = ids.size(0);
  ids.copy_(-2 - at::arange(pairs, at::kLong));
  find("step").zero_();
  if (state.contains(column("image_tokens"))) {
    find("image_tokens").normal_(0, 1, generator);
    std::vector<std::string> texts;
    for (std::int64_t i = 0; i < pairs; ++i)
      texts.push_back(captions[static_cast<std::size_t>(i) % captions.size()]);
    const at::Tensor room = find("token_ids");
    const at::Tensor tokens = tokenizer.encode_batch(texts, room.size(1)).input_ids;
    room.narrow(1, 0, tokens.size(1)).copy_(tokens);
  }
  state.json()[kQueue] = {{"next", 0}, {"filled", pairs}};
}

}  // namespace tessera::bench
