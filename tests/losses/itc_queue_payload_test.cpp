#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>
#include <limits>

#include "core/archive.h"
#include "core/error.h"
#include "losses/itc_queue.h"
#include "tests/losses/fake_ranks.h"
#include "tests/losses/made_up.h"

namespace tessera::losses {
namespace {

constexpr QueuePayloadShape kPayload{2, 3, 5};

QueueEntries entries(std::int64_t count, std::int64_t first_id, std::int64_t text_tokens = 5) {
  return {at::randn({count, 4}), at::randn({count, 4}), at::arange(first_id, first_id + count, at::kLong),
          at::randn({count, 2, 3}).to(at::kBFloat16), at::randint(1, 100, {count, text_tokens}, at::kLong)};
}

ItcQueue make_queue(std::int64_t size) { return ItcQueue(size, 4, at::kCPU, kPayload); }

std::int64_t slot_of(const QueueView& view, std::int64_t id) {
  const at::Tensor slots = (view.image_ids == id).nonzero().squeeze(1);
  TORCH_CHECK(slots.numel() == 1, "id ", id, " stands in ", slots.numel(), " slots");
  return slots.item<std::int64_t>();
}

TEST(ItcQueuePayload, StaysWithItsPairWhereTheRingWrapsAround) {
  at::manual_seed(1);
  ItcQueue queue = make_queue(7);
  EXPECT_TRUE(queue.has_payload());
  std::vector<QueueEntries> batches;
  std::int64_t next_id = 0;
  for (const std::int64_t size : {3, 3, 2, 9, 4}) {
    batches.push_back(entries(size, next_id));
    next_id += size;
    queue.enqueue(batches.back(), 0);
  }
  // 21 pairs were queued; the last seven stayed: three of the fourth batch, and all of the fifth.
  const QueueView view = queue.view(1, any_age());
  const auto expect_kept = [&](const QueueEntries& batch, std::int64_t row) {
    const std::int64_t slot = slot_of(view, batch.image_ids[row].item<std::int64_t>());
    EXPECT_TRUE(at::equal(view.image[slot], batch.image[row]));
    EXPECT_TRUE(at::equal(view.image_tokens[slot], batch.image_tokens[row]));
    EXPECT_TRUE(at::equal(view.token_ids[slot], batch.token_ids[row]));
  };
  for (std::int64_t row = 6; row < 9; ++row) expect_kept(batches[3], row);
  for (std::int64_t row = 0; row < 4; ++row) expect_kept(batches[4], row);
}

TEST(ItcQueuePayload, ShorterTextsArePaddedAlsoOverLongerOnes) {
  ItcQueue queue = make_queue(2);
  const QueueEntries longer = entries(2, 0), shorter = entries(2, 10, 3);
  queue.enqueue(longer, 0);
  queue.enqueue(shorter, 1);
  const QueueView view = queue.view(2, any_age());
  EXPECT_TRUE(at::equal(view.token_ids.slice(1, 0, 3), shorter.token_ids));
  EXPECT_EQ(view.token_ids.slice(1, 3).count_nonzero().item<int>(), 0);
}

TEST(ItcQueuePayload, IsRoundedToBfloat16AndDetached) {
  ItcQueue queue = make_queue(2);
  QueueEntries given = entries(2, 0);
  given.image_tokens = at::randn({2, 2, 3}).set_requires_grad(true);
  queue.enqueue(given, 0);
  const QueueView view = queue.view(1, any_age());
  EXPECT_FALSE(view.image_tokens.requires_grad());
  EXPECT_TRUE(at::equal(view.image_tokens, given.image_tokens.detach().to(at::kBFloat16)));
}

TEST(ItcQueuePayload, FilledIsWhateverAgeUsableIsFresh) {
  ItcQueue queue = make_queue(6);
  queue.enqueue(entries(2, 0), 0);
  queue.enqueue(entries(2, 10), 5);
  const QueueView view = queue.view(6, at::scalar_tensor(3, at::kLong));
  EXPECT_TRUE(at::equal(view.filled, at::tensor({1, 1, 1, 1, 0, 0}).to(at::kBool)));
  EXPECT_TRUE(at::equal(view.usable, at::tensor({0, 0, 1, 1, 0, 0}).to(at::kBool)));
  EXPECT_TRUE(at::equal(view.filled_slots(), view.filled));
}

TEST(ItcQueuePayload, EveryRankHoldsThePayloadsOfAll) {
  const QueueEntries a = entries(2, 0), b = entries(2, 10);
  const std::vector<std::vector<at::Tensor>> groups = {{a.image, b.image},
                                                       {a.text, b.text},
                                                       {a.image_ids, b.image_ids},
                                                       {a.image_tokens, b.image_tokens},
                                                       {a.token_ids, b.token_ids}};
  FakeRanks rank0(0, groups), rank1(1, groups);
  ItcQueue first = make_queue(5), second = make_queue(5);
  first.enqueue(a, 3, rank0);
  second.enqueue(b, 3, rank1);
  const QueueView view = second.view(4, any_age());
  EXPECT_TRUE(at::equal(first.view(4, any_age()).image_tokens, view.image_tokens));
  EXPECT_TRUE(at::equal(view.image_tokens[slot_of(view, 1)], a.image_tokens[1]));
  EXPECT_TRUE(at::equal(view.token_ids[slot_of(view, 10)], b.token_ids[0]));
}

TEST(ItcQueuePayload, GoesOnFromAnArchiveBitForBit) {
  at::manual_seed(4);
  const auto path = std::filesystem::temp_directory_path() / "tessera_itc_queue_payload_test.safetensors";
  ItcQueue queue = make_queue(5), restored = make_queue(5);
  queue.enqueue(entries(7, 0), 1);
  queue.enqueue(entries(2, 10, 4), 2);
  Archive archive;
  queue.save(archive);
  archive.write(path, "test");
  restored.load(Archive::read(path, "test"));
  std::filesystem::remove(path);
  const QueueEntries next = entries(4, 20);
  for (ItcQueue* each : {&queue, &restored}) each->enqueue(next, 3);
  const QueueView a = queue.view(4, any_age()), b = restored.view(4, any_age());
  EXPECT_TRUE(at::equal(a.image_ids, b.image_ids));
  EXPECT_TRUE(at::equal(a.image_tokens, b.image_tokens));
  EXPECT_TRUE(at::equal(a.token_ids, b.token_ids));
  EXPECT_EQ(b.image_tokens.scalar_type(), at::kBFloat16);
}

TEST(ItcQueuePayload, RefusesAStateOfAnotherShapeOrWithout) {
  Archive without, other;
  ItcQueue(5, 4, at::kCPU).save(without);
  ItcQueue(5, 4, at::kCPU, {2, 3, 6}).save(other);
  ItcQueue queue = make_queue(5);
  EXPECT_THROW(queue.load(without), Error);
  try {
    queue.load(other);
    FAIL() << "took a state of six text tokens";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()),
              "archive: tensor 'itc_queue.token_ids': expected [5, 5] Long, found [5, 6] Long");
  }
}

TEST(ItcQueuePayload, IsExpectedExactlyWhereTheQueueHasOne) {
  ItcQueue queue = make_queue(5), plain(5, 4, at::kCPU);
  const QueueEntries good = entries(2, 0);
  EXPECT_FALSE(plain.view(1, any_age()).has_payload());
  EXPECT_THROW(plain.enqueue(good, 0), c10::Error);
  EXPECT_THROW(queue.enqueue(good.image, good.text, good.image_ids, 0), c10::Error);
  QueueEntries bad = good;
  bad.token_ids = at::ones({2, 6}, at::kLong);
  EXPECT_THROW(queue.enqueue(bad, 0), c10::Error);
  bad = good;
  bad.image_tokens = at::zeros({2, 3, 3});
  EXPECT_THROW(queue.enqueue(bad, 0), c10::Error);
  EXPECT_EQ(queue.filled(), 0);
  EXPECT_THROW(ItcQueue(5, 4, at::kCPU, {2, 3, 0}), c10::Error);
}

}  // namespace
}  // namespace tessera::losses
