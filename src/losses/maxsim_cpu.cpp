#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "losses/maxsim_kernels.h"
#include "ops/cpu/vectors.h"

namespace tessera::losses {

using namespace ops::cpu;  // the vectors that kernels are written in

namespace {

/// Similarities of a tile, and the rows of a gradient that are added to: what stays in the second-level
/// cache.
constexpr std::int64_t kTileBytes = 512 * 1024;

/// One image's similarities to one text's tokens, row after row, [tokens, padded]. Rows are padded with -inf
/// to whole vectors.
template <typename Scalar>
struct Tile {
  const Scalar* similarity;
  std::int64_t tokens;
  std::int64_t patches;
  std::int64_t padded;
};

template <typename Scalar>
using IndexOf = typename Vectors<Scalar, 64>::Index;

/// Room for the best of each patch (`padded` long) and of each token.
template <typename Scalar>
struct Best {
  Scalar* of_patch;
  IndexOf<Scalar>* token;
  Scalar* of_token;
  std::int32_t* patch;
};

template <typename Scalar>
struct Sums {
  Scalar of_patches = 0;
  Scalar of_tokens = 0;
};

template <std::int64_t kBytes, typename Scalar>
TESSERA_INLINE Scalar sum(const Scalar* values, std::int64_t count) {
  using V = Vectors<Scalar, kBytes>;
  typename V::Values lanes = {}, next;
  std::int64_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) {
    load_vector(next, values + i);
    lanes += next;
  }
  Scalar total = 0;
  for (; i < count; ++i) total += values[i];
  for (std::int64_t lane = 0; lane < V::kLanes; ++lane) total += lanes[lane];
  return total;
}

/// Both reductions in one pass over the tile. Comparisons keep the first of equals, and no index leaves the
/// image or text even where nothing compares (NaN).
template <std::int64_t kBytes, typename Scalar>
TESSERA_INLINE Sums<Scalar> best_matches_with(const Tile<Scalar>& tile, const Best<Scalar>& best) {
  using V = Vectors<Scalar, kBytes>;
  constexpr Scalar kLowest = -std::numeric_limits<Scalar>::infinity();
  std::fill(best.of_patch, best.of_patch + tile.padded, kLowest);
  std::fill(best.token, best.token + tile.padded, 0);
  typename V::Indices lanes;
  for (std::int64_t lane = 0; lane < V::kLanes; ++lane) lanes[lane] = static_cast<typename V::Index>(lane);
  for (std::int64_t t = 0; t < tile.tokens; ++t) {
    const Scalar* row = tile.similarity + t * tile.padded;
    const typename V::Indices token = typename V::Indices{} + static_cast<typename V::Index>(t);
    typename V::Values value = typename V::Values{} + kLowest;
    typename V::Indices index = {};
    for (std::int64_t block = 0; block < tile.padded; block += V::kLanes) {
      typename V::Values found, of_patch;
      typename V::Indices best_token;
      load_vector(found, row + block);
      load_vector(of_patch, best.of_patch + block);
      load_vector(best_token, best.token + block);
      const typename V::Indices better_token = found > of_patch;
      store_vector(better_token ? found : of_patch, best.of_patch + block);
      store_vector(better_token ? token : best_token, best.token + block);
      const typename V::Indices better_patch = found > value;
      index = better_patch ? lanes + static_cast<typename V::Index>(block) : index;
      value = better_patch ? found : value;
    }
    typename V::Values greatest = value;
    spread_greatest<V::kLanes / 2>(greatest, V::kAllLanes);
    index = value == greatest ? index : typename V::Indices{} + std::numeric_limits<typename V::Index>::max();
    spread_smallest<V::kLanes / 2>(index, V::kAllLanes);
    best.of_token[t] = greatest[0];
    best.patch[t] = static_cast<std::int32_t>(index[0]);
  }
  return {sum<kBytes>(best.of_patch, tile.patches), sum<kBytes>(best.of_token, tile.tokens)};
}

TESSERA_KERNEL(Sums<float>, best_matches, (const Tile<float>& tile, const Best<float>& best), (tile, best))
TESSERA_KERNEL(Sums<double>, best_matches, (const Tile<double>& tile, const Best<double>& best), (tile, best))

/// The pairs of a patch and a token that an image and a text chose, seen from one of the two.
struct Choices {
  const std::int32_t* own;
  const std::int32_t* other;
  std::int64_t count;
};

/// own[choices.own[i]] += weight · other[choices.other[i]]
template <std::int64_t kBytes, typename Scalar>
TESSERA_INLINE void accumulate_with(Scalar* own, const Scalar* other, const Choices& choices, Scalar weight,
                                    std::int64_t width) {
  for (std::int64_t i = 0; i < choices.count; ++i) {
    Scalar* __restrict__ to = own + choices.own[i] * width;
    const Scalar* __restrict__ from = other + choices.other[i] * width;
    for (std::int64_t d = 0; d < width; ++d) to[d] += weight * from[d];
  }
}

TESSERA_KERNEL(void, accumulate,
               (float* own, const float* other, const Choices& choices, float weight, std::int64_t width),
               (own, other, choices, weight, width))
TESSERA_KERNEL(void, accumulate,
               (double* own, const double* other, const Choices& choices, double weight, std::int64_t width),
               (own, other, choices, weight, width))

/// Calls `action` with a pointer of the tensor's integer type (index_dtype).
template <typename Action>
void with_indices(const at::Tensor& indices, const Action& action) {
  switch (indices.scalar_type()) {
    case at::kByte:
      return action(static_cast<std::uint8_t*>(indices.data_ptr()));
    case at::kShort:
      return action(static_cast<std::int16_t*>(indices.data_ptr()));
    default:
      return action(indices.data_ptr<std::int32_t>());
  }
}

template <typename From>
void store(const From* from, std::int64_t count, const at::Tensor& to, std::int64_t place) {
  with_indices(to, [&](auto* data) {
    using Index = std::remove_pointer_t<decltype(data)>;
    for (std::int64_t i = 0; i < count; ++i) data[place + i] = static_cast<Index>(from[i]);
  });
}

void load(const at::Tensor& from, std::int64_t place, std::int64_t count, std::int32_t* to) {
  with_indices(from, [&](const auto* data) { std::copy_n(data + place, count, to); });
}

/// The real tokens of all texts, one after another.
struct Packed {
  at::Tensor rows;     ///< [real tokens] their places among [B_t · T]
  at::Tensor tokens;   ///< [real tokens, D]
  at::Tensor offsets;  ///< [B_t + 1] int64: where each text begins
};

Packed pack(const at::Tensor& tokens, const at::Tensor& mask) {
  Packed packed;
  packed.rows = mask.flatten().nonzero().squeeze(1);
  packed.tokens = tokens.flatten(0, 1).index_select(0, packed.rows);
  packed.offsets = at::constant_pad_nd(mask.sum(1).cumsum(0), {1, 0});
  return packed;
}

/// Texts [begin, end) whose tokens fill a tile.
struct TextRange {
  std::int64_t begin;
  std::int64_t end;
};

std::vector<TextRange> tiles_of(const std::int64_t* offsets, std::int64_t texts, std::int64_t tile_tokens) {
  std::vector<TextRange> ranges;
  for (std::int64_t text = 0; text < texts; ++text) {
    if (ranges.empty() || offsets[text + 1] - offsets[ranges.back().begin] > tile_tokens) {
      ranges.push_back({text, text});
    }
    ranges.back().end = text + 1;
  }
  return ranges;
}

/// What the loops of a forward pass read and write.
template <typename Scalar>
struct ForwardPass {
  at::Tensor patches;  ///< [B_i, P, D]
  Packed texts;
  at::Tensor image_to_text, text_to_image;  ///< [B_i, B_t]
  at::Tensor best_token;                    ///< [B_i, B_t, P], counted from the text's first
  at::Tensor best_patch;                    ///< [B_i, real tokens]

  std::int64_t padded() const { return whole_vectors<Scalar>(patches.size(1)); }

  /// @param similarity scratch [at least the range's tokens, padded], -inf in its last columns
  void run(std::int64_t image, const TextRange& range, const at::Tensor& similarity) const;
};

template <typename Scalar>
void ForwardPass<Scalar>::run(std::int64_t image, const TextRange& range,
                              const at::Tensor& similarity) const {
  const std::int64_t* offsets = texts.offsets.const_data_ptr<std::int64_t>();
  const std::int64_t text_count = image_to_text.size(1), patch_count = patches.size(1);
  const std::int64_t first = offsets[range.begin], count = offsets[range.end] - first;
  if (count > 0) {
    at::Tensor out = similarity.narrow(0, 0, count).narrow(1, 0, patch_count);
    at::mm_out(out, texts.tokens.narrow(0, first, count), patches[image].t());
  }
  std::vector<Scalar> of_patch(padded()), of_token(count);
  std::vector<IndexOf<Scalar>> token(padded());
  std::vector<std::int32_t> patch(count);
  for (std::int64_t text = range.begin; text < range.end; ++text) {
    const std::int64_t begin = offsets[text] - first, length = offsets[text + 1] - offsets[text];
    const Tile<Scalar> tile{similarity.const_data_ptr<Scalar>() + begin * padded(), length, patch_count,
                            padded()};
    const Sums<Scalar> sums =
        best_matches(tile, {of_patch.data(), token.data(), of_token.data() + begin, patch.data() + begin});
    const std::int64_t place = image * text_count + text;
    image_to_text.mutable_data_ptr<Scalar>()[place] =
        length == 0 ? Scalar(0) : sums.of_patches / static_cast<Scalar>(patch_count);
    text_to_image.mutable_data_ptr<Scalar>()[place] =
        length == 0 ? Scalar(0) : sums.of_tokens / static_cast<Scalar>(length);
    store(token.data(), patch_count, best_token, place * patch_count);
  }
  store(patch.data(), count, best_patch, image * texts.tokens.size(0) + first);
}

template <typename Scalar>
void run_forward(const ForwardPass<Scalar>& pass) {
  const std::int64_t* offsets = pass.texts.offsets.template const_data_ptr<std::int64_t>();
  const std::int64_t texts = pass.image_to_text.size(1), images = pass.patches.size(0);
  const std::int64_t row_bytes = pass.padded() * static_cast<std::int64_t>(sizeof(Scalar));
  const auto ranges = tiles_of(offsets, texts, kTileBytes / row_bytes);
  std::int64_t tile_tokens = 0;
  for (const TextRange& range : ranges) {
    tile_tokens = std::max(tile_tokens, offsets[range.end] - offsets[range.begin]);
  }
  const auto tiles = static_cast<std::int64_t>(ranges.size());
  at::parallel_for(0, images * tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;  // a thread's own setting
    const at::Tensor similarity =
        at::full({tile_tokens, pass.padded()}, -std::numeric_limits<double>::infinity(),
                 pass.patches.options().requires_grad(false));
    for (std::int64_t i = begin; i < end; ++i) {
      pass.run(i / tiles, ranges[static_cast<std::size_t>(i % tiles)], similarity);
    }
  });
}

/// Of images or of texts: the rows of each, one after another.
struct Side {
  at::Tensor values;  ///< [rows, D]
  std::vector<std::int64_t> offsets;
  std::int64_t count() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  std::int64_t length(std::int64_t index) const { return offsets[index + 1] - offsets[index]; }
};

/// What the loops of a backward pass read. Each image or text is owned by one thread, which adds to its rows
/// in the order of the texts or images: the result doesn't depend on the number of threads.
template <typename Scalar>
class BackwardPass {
 public:
  BackwardPass(const std::vector<at::Tensor>& saved, const MaxSimBackwardArguments& gradients)
      : best_token_(saved[3]), best_patch_(saved[4]), gradients_(gradients) {
    const at::Tensor& patches = saved[0];
    images_.values = patches.flatten(0, 1);
    for (std::int64_t i = 0; i <= patches.size(0); ++i) images_.offsets.push_back(i * patches.size(1));
    texts_.values = saved[1];
    const std::int64_t* offsets = saved[2].const_data_ptr<std::int64_t>();
    texts_.offsets.assign(offsets, offsets + saved[2].numel());
    const std::int64_t tokens = texts_.values.size(0);
    every_.resize(static_cast<std::size_t>(std::max(patches.size(1), tokens)));
    std::iota(every_.begin(), every_.end(), 0);
  }

  /// [rows, D] gradient of all images' or all texts' rows
  at::Tensor of_images() const { return gradient_of(images_, texts_, true); }
  at::Tensor of_texts() const { return gradient_of(texts_, images_, false); }

 private:
  at::Tensor gradient_of(const Side& own, const Side& other, bool own_is_image) const {
    at::Tensor result = at::zeros_like(own.values);
    const std::int64_t rows_of_one = std::max<std::int64_t>(1, own.values.size(0) / own.count());
    const std::int64_t bytes = rows_of_one * own.values.size(1) * static_cast<std::int64_t>(sizeof(Scalar));
    // A block's rows stay in the cache while the other side passes by once for the whole block.
    const std::int64_t share = (own.count() + at::get_num_threads() - 1) / at::get_num_threads();
    const std::int64_t block = std::clamp<std::int64_t>(kTileBytes / bytes, 1, share);
    at::parallel_for(0, (own.count() + block - 1) / block, 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<std::int32_t> token(every_.size()), patch(every_.size());
      for (std::int64_t b = begin; b < end; ++b) {
        const std::int64_t last = std::min((b + 1) * block, own.count());
        for (std::int64_t o = 0; o < other.count(); ++o) {
          for (std::int64_t i = b * block; i < last; ++i) {
            const std::int64_t image = own_is_image ? i : o, text = own_is_image ? o : i;
            add_pair(image, text, own_is_image, result.mutable_data_ptr<Scalar>(), token.data(),
                     patch.data());
          }
        }
      }
    });
    return result;
  }

  void add_pair(std::int64_t image, std::int64_t text, bool own_is_image, Scalar* result, std::int32_t* token,
                std::int32_t* patch) const {
    const std::int64_t patches = images_.length(image), tokens = texts_.length(text);
    if (tokens == 0) return;
    const std::int64_t place = image * texts_.count() + text, width = images_.values.size(1);
    const Side &own = own_is_image ? images_ : texts_, &other = own_is_image ? texts_ : images_;
    Scalar* to = result + own.offsets[own_is_image ? image : text] * width;
    const Scalar* from =
        other.values.const_data_ptr<Scalar>() + other.offsets[own_is_image ? text : image] * width;
    const auto add = [&](const std::int32_t* patch_rows, const std::int32_t* token_rows, std::int64_t count,
                         Scalar weight) {
      const Choices choices =
          own_is_image ? Choices{patch_rows, token_rows, count} : Choices{token_rows, patch_rows, count};
      accumulate(to, from, choices, weight, width);
    };
    const Scalar of_patch =
        gradients_.image_to_text.const_data_ptr<Scalar>()[place] / static_cast<Scalar>(patches);
    if (of_patch != 0) {
      load(best_token_, place * patches, patches, token);
      add(every_.data(), token, patches, of_patch);
    }
    const Scalar of_token =
        gradients_.text_to_image.const_data_ptr<Scalar>()[place] / static_cast<Scalar>(tokens);
    if (of_token != 0) {
      load(best_patch_, image * texts_.values.size(0) + texts_.offsets[text], tokens, patch);
      add(patch, every_.data(), tokens, of_token);
    }
  }

  Side images_, texts_;
  at::Tensor best_token_, best_patch_;
  MaxSimBackwardArguments gradients_;
  std::vector<std::int32_t> every_;  ///< 0, 1, 2, …
};

}  // namespace

MaxSimForward maxsim_cpu_forward(const at::Tensor& patches, const at::Tensor& tokens,
                                 const at::Tensor& mask) {
  const Packed texts = pack(tokens, mask);
  const std::int64_t images = patches.size(0), text_count = tokens.size(0), patch_count = patches.size(1);
  const auto numbers = patches.options().requires_grad(false);
  const auto scores = [&] { return at::empty({images, text_count}, numbers); };
  const at::Tensor best_token =
      at::empty({images, text_count, patch_count}, numbers.dtype(index_dtype(tokens.size(1))));
  const at::Tensor best_patch =
      at::empty({images, texts.tokens.size(0)}, numbers.dtype(index_dtype(patch_count)));
  MaxSimScores result{scores(), scores()};
  AT_DISPATCH_FLOATING_TYPES(patches.scalar_type(), "maxsim", [&] {
    run_forward(ForwardPass<scalar_t>{patches, texts, result.image_to_text, result.text_to_image, best_token,
                                      best_patch});
  });
  return {result, {patches, texts.tokens, texts.offsets, best_token, best_patch, texts.rows, mask}};
}

MaxSimGradients maxsim_cpu_backward(const std::vector<at::Tensor>& saved,
                                    const MaxSimBackwardArguments& gradients) {
  const at::Tensor &patches = saved[0], &rows = saved[5], &mask = saved[6];
  MaxSimGradients result;
  AT_DISPATCH_FLOATING_TYPES(patches.scalar_type(), "maxsim_backward", [&] {
    const BackwardPass<scalar_t> pass(saved, gradients);
    if (gradients.wants_patches) result.patches = pass.of_images().view(patches.sizes());
    if (gradients.wants_tokens) {
      result.tokens = at::zeros({mask.numel(), patches.size(2)}, patches.options().requires_grad(false))
                          .index_copy_(0, rows, pass.of_texts())
                          .view({mask.size(0), mask.size(1), patches.size(2)});
    }
  });
  return result;
}

}  // namespace tessera::losses
