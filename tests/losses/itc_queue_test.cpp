#include "losses/itc_queue.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <deque>
#include <filesystem>
#include <limits>

#include "core/archive.h"
#include "core/error.h"
#include "losses/itc.h"
#include "tests/core/error_of.h"
#include "tests/losses/fake_ranks.h"
#include "tests/losses/made_up.h"

namespace tessera::losses {
namespace {

at::Tensor age(std::int64_t value) { return at::scalar_tensor(value, at::kLong); }
struct Pairs {
  at::Tensor image, text, image_ids;
};

Pairs pairs(std::int64_t count, std::int64_t first_id, std::int64_t width = 3) {
  return {at::randn({count, width}), at::randn({count, width}),
          at::arange(first_id, first_id + count, at::kLong)};
}

std::vector<std::int64_t> usable_ids(const QueueView& view) {
  const at::Tensor found = std::get<0>(view.image_ids.masked_select(view.usable).sort());
  return {found.data_ptr<std::int64_t>(), found.data_ptr<std::int64_t>() + found.numel()};
}

bool identical(const QueueView& a, const QueueView& b) {
  return at::equal(a.image, b.image) && at::equal(a.text, b.text) && at::equal(a.image_ids, b.image_ids) &&
         at::equal(a.usable, b.usable);
}

TEST(ItcQueue, BeginsEmptyAndUsesOnlyItsFilledPart) {
  ItcQueue queue(5, 3, at::kCPU);
  EXPECT_EQ(queue.filled(), 0);
  EXPECT_EQ(queue.size(), 5);
  EXPECT_TRUE(usable_ids(queue.view(10, any_age())).empty());
  const Pairs batch = pairs(2, 40);
  queue.enqueue(batch.image, batch.text, batch.image_ids, 0);
  EXPECT_EQ(queue.filled(), 2);
  EXPECT_EQ(usable_ids(queue.view(10, any_age())), (std::vector<std::int64_t>{40, 41}));
}

/// Any sequence of batch sizes, none dividing the queue, some larger than it, keeps the newest pairs intact.
TEST(ItcQueue, KeepsTheNewestPairsForAnyBatchSizes) {
  at::manual_seed(1);
  ItcQueue queue(7, 3, at::kCPU);
  struct Kept {
    at::Tensor image, text;
    std::int64_t id;
  };
  std::deque<Kept> expected;
  std::int64_t next_id = 0;
  for (const std::int64_t size : {3, 3, 3, 0, 1, 7, 2, 20, 5, 14, 6}) {
    const Pairs batch = pairs(size, next_id);
    queue.enqueue(batch.image, batch.text, batch.image_ids, 0);
    for (std::int64_t i = 0; i < size; ++i) {
      expected.push_back({batch.image[i], batch.text[i], next_id + i});
    }
    while (expected.size() > 7) {
      expected.pop_front();
    }
    next_id += size;
    const QueueView view = queue.view(1, any_age());
    ASSERT_EQ(queue.filled(), static_cast<std::int64_t>(expected.size()));
    ASSERT_EQ(usable_ids(view).size(), expected.size());
    for (const Kept& kept : expected) {
      const at::Tensor slot = (view.image_ids == kept.id).nonzero().squeeze(1);
      ASSERT_EQ(slot.numel(), 1) << "id " << kept.id << " after a batch of " << size;
      EXPECT_TRUE(at::equal(view.image[slot.item<std::int64_t>()], kept.image));
      EXPECT_TRUE(at::equal(view.text[slot.item<std::int64_t>()], kept.text));
    }
  }
}

TEST(ItcQueue, MasksEntriesOlderThanTheAllowedAge) {
  ItcQueue queue(6, 3, at::kCPU);
  for (std::int64_t step = 0; step < 3; ++step) {
    const Pairs batch = pairs(2, 10 * step);
    queue.enqueue(batch.image, batch.text, batch.image_ids, step);
  }
  EXPECT_EQ(usable_ids(queue.view(3, age(3))).size(), 6u);
  EXPECT_EQ(usable_ids(queue.view(3, age(2))), (std::vector<std::int64_t>{10, 11, 20, 21}));
  EXPECT_EQ(usable_ids(queue.view(4, age(2))), (std::vector<std::int64_t>{20, 21}));
  EXPECT_TRUE(usable_ids(queue.view(3, age(0))).empty());
}

TEST(ItcQueue, HoldsDetachedCopiesInFloat32) {
  ItcQueue queue(4, 3, at::kCPU);
  at::Tensor image = at::randn({2, 3}, at::kDouble).set_requires_grad(true);
  const at::Tensor before = image.detach().to(at::kFloat).clone();
  const Pairs batch = pairs(2, 0);
  queue.enqueue(image, batch.text, batch.image_ids, 0);
  {
    const torch::NoGradGuard no_grad;
    image.fill_(5);
  }
  const QueueView view = queue.view(1, any_age());
  EXPECT_FALSE(view.image.requires_grad());
  EXPECT_TRUE(at::equal(view.image.slice(0, 0, 2), before));
}

/// The trainer enqueues after the forward pass; the backward pass must not see the new entries.
TEST(ItcQueue, MayBeOverwrittenBetweenForwardAndBackward) {
  at::manual_seed(2);
  ItcQueue queue(4, 3, at::kCPU);
  const Pairs old = pairs(4, 0), batch = pairs(2, 10), next = pairs(4, 20);
  queue.enqueue(old.image, old.text, old.image_ids, 0);
  const auto gradient = [&](bool overwrite) {
    Archive archive;
    queue.save(archive);
    ItcQueue copy(4, 3, at::kCPU);
    copy.load(archive);
    const at::Tensor image = batch.image.clone().set_requires_grad(true);
    SingleProcess single;
    const auto loss = itc_loss(image, batch.text, batch.image_ids, copy.view(1, any_age()),
                               at::scalar_tensor(0.1), SameId::kIgnore, single);
    if (overwrite) {
      copy.enqueue(next.image, next.text, next.image_ids, 1);
    }
    loss.mean().backward();
    return image.grad();
  };
  EXPECT_TRUE(at::equal(gradient(false), gradient(true)));
}

TEST(ItcQueue, FillsEveryRankWithTheBatchesOfAll) {
  const Pairs a = pairs(2, 0), b = pairs(2, 10);
  const std::vector<std::vector<at::Tensor>> groups = {
      {a.image, b.image}, {a.text, b.text}, {a.image_ids, b.image_ids}};
  ItcQueue first(5, 3, at::kCPU), second(5, 3, at::kCPU);
  FakeRanks rank0(0, groups), rank1(1, groups);
  first.enqueue(a.image, a.text, a.image_ids, 3, rank0);
  second.enqueue(b.image, b.text, b.image_ids, 3, rank1);
  EXPECT_TRUE(identical(first.view(4, any_age()), second.view(4, any_age())));
  EXPECT_EQ(usable_ids(first.view(4, any_age())), (std::vector<std::int64_t>{0, 1, 10, 11}));
}

TEST(ItcQueue, GoesOnFromAnArchiveBitForBit) {
  at::manual_seed(4);
  const auto path = std::filesystem::temp_directory_path() / "tessera_itc_queue_test.safetensors";
  ItcQueue queue(5, 3, at::kCPU), restored(5, 3, at::kCPU);
  const Pairs first = pairs(7, 0), second = pairs(2, 10), third = pairs(4, 20);
  queue.enqueue(first.image, first.text, first.image_ids, 1);
  queue.enqueue(second.image, second.text, second.image_ids, 2);
  Archive archive;
  queue.save(archive);
  archive.write(path, "test");
  restored.load(Archive::read(path, "test"));
  std::filesystem::remove(path);
  for (ItcQueue* each : {&queue, &restored}) {
    each->enqueue(third.image, third.text, third.image_ids, 3);
  }
  EXPECT_EQ(queue.filled(), restored.filled());
  EXPECT_TRUE(identical(queue.view(4, age(2)), restored.view(4, age(2))));
}

TEST(ItcQueue, RefusesStatesThatAreNotItsOwn) {
  ItcQueue queue(5, 3, at::kCPU);
  Archive archive;
  EXPECT_EQ(error_of([&] { queue.load(archive); }), "archive: key 'itc_queue.next' is missing");
  ItcQueue(5, 4, at::kCPU).save(archive);
  EXPECT_EQ(error_of([&] { queue.load(archive); }),
            "archive: tensor 'itc_queue.image': expected [5, 3] Float, found [5, 4] Float");
  queue.save(archive);
  archive.json()["itc_queue"]["next"] = 5;
  EXPECT_EQ(error_of([&] { queue.load(archive); }),
            "archive: key 'itc_queue.next': expected an integer from 0 to 4, found 5");
  archive.json()["itc_queue"]["next"] = "one";
  EXPECT_THROW(queue.load(archive), Error);
}

TEST(ItcQueue, WrongShapesAreRefused) {
  ItcQueue queue(5, 3, at::kCPU);
  const Pairs batch = pairs(2, 0);
  EXPECT_THROW(queue.enqueue(batch.image, batch.text.slice(0, 0, 1), batch.image_ids, 0), c10::Error);
  EXPECT_THROW(queue.enqueue(at::randn({2, 4}), at::randn({2, 4}), batch.image_ids, 0), c10::Error);
  EXPECT_THROW(queue.enqueue(batch.image, batch.text, batch.image_ids, -1), c10::Error);
  EXPECT_THROW(queue.view(0, at::scalar_tensor(1.0)), c10::Error);
  EXPECT_THROW(ItcQueue(0, 3, at::kCPU), c10::Error);
}

}  // namespace
}  // namespace tessera::losses
