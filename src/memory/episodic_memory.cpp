#include "memory/episodic_memory.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "memory/gram.h"

namespace tessera::memory {

namespace {

// Far above the rounding of float64, far below what a code of float32 resolves.
constexpr double kSmallestRidge = 1e-10;
constexpr double kInitialLogVariance = -4.0;

at::Tensor with_noise(const at::Tensor& values, const at::Tensor& noise, double sigma) {
  return noise.defined() ? values + sigma * noise.to(values.options()) : values;
}

at::Tensor initial_prior_mean(const MemoryConfig& config, std::uint64_t seed) {
  at::Tensor mean = at::empty({config.slots, config.code_size}, at::kFloat);
  const double scale = 1.0 / std::sqrt(static_cast<double>(config.code_size));
  CounterRandom random(seed, RandomPurpose::kInitialisation, /*step=*/0, /*index=*/0);
  float* values = mean.mutable_data_ptr<float>();
  std::generate_n(values, mean.numel(), [&] { return static_cast<float>(scale * random.normal()); });
  return mean;
}

/// Leaves rows S out of the combination c for a target: the solution of the same problem without these rows,
/// by the block inverse, c − c_S (P_SS)⁻¹ P_S. Items that belong together have the same S, so that the
/// blocks P_SS of all are one matrix: P with 0 where two don't belong together.
///
/// @param coefficients [N, E, E]; @param inverse P [N, E, E] of the (regularised) Gram matrix
/// @param excluded     [N or 1, E, E] bool: j is among the S of target i. An equivalence
at::Tensor leave_one_out(const at::Tensor& coefficients, const at::Tensor& inverse,
                         const at::Tensor& excluded) {
  const at::Tensor others = excluded.logical_not();
  const at::Tensor blocks = inverse.masked_fill(others, 0);
  const at::Tensor factor =
      std::get<0>(at::linalg_cholesky_ex(blocks, /*upper=*/false, /*check_errors=*/false));
  const at::Tensor shares = at::cholesky_solve(coefficients.masked_fill(others, 0).mT(), factor).mT();
  // What is left at S is rounding.
  return (coefficients - shares.matmul(inverse)).masked_fill(excluded, 0);
}

/// Targets as combinations of rows, by least squares: T·A⁺ = T·Aᵀ(AAᵀ)⁻¹.
///
/// @param targets [N, Q, D]; @param rows [N, E, D]
/// @param excluded the rows that a target is not combined from (leave_one_out; Q = E); undefined: none
/// @return [N, Q, E]
at::Tensor combine(const at::Tensor& targets, const at::Tensor& rows, double ridge,
                   const at::Tensor& excluded) {
  const GramSolver gram(rows, ridge);
  if (!excluded.defined()) return gram.solve(rows.matmul(targets.mT())).mT();
  const at::Tensor inverse = gram.inverse();
  return leave_one_out(targets.matmul(rows.mT()).matmul(inverse), inverse, excluded);
}

}  // namespace

EpisodicMemoryImpl::EpisodicMemoryImpl(const MemoryConfig& config, std::uint64_t seed) : config_(config) {
  TORCH_CHECK(config.slots >= 1 && config.slots < config.code_size,
              "episodic memory: 1 <= slots < code_size expected, got ", config.slots, " and ",
              config.code_size);
  TORCH_CHECK(config.noise >= 0, "episodic memory: noise must not be negative, got ", config.noise);
  prior_mean = register_parameter("prior_mean", initial_prior_mean(config, seed));
  address_log_variance =
      register_parameter("address_log_variance", at::full({config.slots}, kInitialLogVariance, at::kFloat));
}

EpisodeReading EpisodicMemoryImpl::read_episode(const at::Tensor& written, const at::Tensor& queries) {
  check(written, queries);
  return read(written, queries, draw(written, queries), /*excluded=*/{});
}

EpisodeReading EpisodicMemoryImpl::read_episode(const at::Tensor& written, const at::Tensor& queries,
                                                const EpisodeNoise& noise) {
  check(written, queries);
  return read(written, queries, noise, /*excluded=*/{});
}

EpisodeReading EpisodicMemoryImpl::read_leave_one_out(const at::Tensor& written, const at::Tensor& queries,
                                                      const at::Tensor& image_ids) {
  const at::Tensor excluded = same_image(written, queries, image_ids);
  return read(written, queries, draw(written, queries), excluded);
}

EpisodeReading EpisodicMemoryImpl::read_leave_one_out(const at::Tensor& written, const at::Tensor& queries,
                                                      const at::Tensor& image_ids,
                                                      const EpisodeNoise& noise) {
  return read(written, queries, noise, same_image(written, queries, image_ids));
}

at::Tensor EpisodicMemoryImpl::same_image(const at::Tensor& written, const at::Tensor& queries,
                                          const at::Tensor& image_ids) const {
  check(written, queries);
  const std::int64_t items = written.size(1);
  TORCH_CHECK(queries.size(1) == items, "episodic memory: one query for each of the ", items,
              " items expected, got ", queries.size(1));
  if (!image_ids.defined())
    return at::eye(items, at::TensorOptions(written.device()).dtype(at::kBool)).unsqueeze(0);
  TORCH_CHECK(image_ids.sizes() == written.sizes().slice(0, 2) && image_ids.scalar_type() == at::kLong,
              "episodic memory: image_ids [", written.size(0), ", ", items, "] int64 expected, got ",
              image_ids.sizes(), " ", image_ids.scalar_type());
  return image_ids.unsqueeze(2).eq(image_ids.unsqueeze(1));
}

void EpisodicMemoryImpl::check(const at::Tensor& written, const at::Tensor& queries) const {
  TORCH_CHECK(written.dim() == 3 && written.size(2) == config_.code_size && written.size(1) >= 1,
              "episodic memory: written [N, E >= 1, ", config_.code_size, "] expected, got ",
              written.sizes());
  TORCH_CHECK(written.size(1) <= config_.slots, "episodic memory: an episode of ", written.size(1),
              " codes does not fit ", config_.slots, " slots");
  TORCH_CHECK(
      queries.dim() == 3 && queries.size(0) == written.size(0) && queries.size(2) == config_.code_size,
      "episodic memory: queries [", written.size(0), ", Q, ", config_.code_size, "] expected, got ",
      queries.sizes());
}

EpisodeNoise EpisodicMemoryImpl::draw(const at::Tensor& written, const at::Tensor& queries) const {
  if (!is_training() || config_.noise == 0) return {};
  const at::TensorOptions options = prior_mean.options().requires_grad(false);
  const auto normal = [&](at::IntArrayRef shape) { return at::randn(shape, options); };
  return {.written = normal(written.sizes()),
          .written_addresses = normal(written.sizes()),
          .queries = normal(queries.sizes()),
          .addresses = normal({queries.size(0), queries.size(1), config_.slots}),
          .codes = normal(queries.sizes())};
}

EpisodeReading EpisodicMemoryImpl::read(const at::Tensor& written, const at::Tensor& queries,
                                        const EpisodeNoise& noise, const at::Tensor& excluded) {
  const double sigma = config_.noise;
  const bool noisy = noise.written.defined() || noise.queries.defined();
  const double ridge = noisy ? std::max(sigma * sigma, kSmallestRidge) : kSmallestRidge;
  // Autocast leaves float64 alone.
  const at::Tensor reference = prior_mean.to(at::kDouble);
  const at::Tensor items = with_noise(written.to(at::kDouble), noise.written, sigma);
  const at::Tensor cues = with_noise(queries.to(at::kDouble), noise.queries, sigma);

  // W = z̃ M₀⁺, with M₀⁺ = M₀ᵀ(M₀M₀ᵀ)⁻¹: one factorisation serves all episodes.
  const at::Tensor keys = with_noise(items, noise.written_addresses, sigma);
  const at::Tensor flat_keys = keys.reshape({-1, config_.code_size});
  const at::Tensor item_addresses = GramSolver(reference, kSmallestRidge)
                                        .solve(reference.matmul(flat_keys.mT()))
                                        .mT()
                                        .reshape({written.size(0), written.size(1), config_.slots});

  // Both the address and the code follow from the query as a combination of the items, q z̃⁺.
  const at::Tensor coefficients = combine(cues, items, ridge, excluded);
  const at::Tensor addresses = coefficients.matmul(item_addresses);
  at::Tensor codes = coefficients.matmul(items);
  if (noise.addresses.defined()) {
    // εM = εW⁺z̃
    const at::Tensor spread =
        noise.addresses.to(at::kDouble) * (0.5 * address_log_variance.to(at::kDouble)).exp();
    codes = codes + combine(spread, item_addresses, ridge, excluded).matmul(items);
  }
  codes = with_noise(codes, noise.codes, sigma);
  return {.codes = codes.to(queries.scalar_type()),
          .kl = address_kl(addresses, address_log_variance.to(at::kDouble)).to(prior_mean.scalar_type()),
          .addresses = addresses.to(prior_mean.scalar_type())};
}

at::Tensor address_kl(const at::Tensor& mean, const at::Tensor& log_variance) {
  TORCH_CHECK(mean.dim() >= 1 && log_variance.dim() == 1 && mean.size(-1) == log_variance.size(0),
              "address_kl: mean [..., K] and log_variance [K] expected, got ", mean.sizes(), " and ",
              log_variance.sizes());
  return 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(-1);
}

}  // namespace tessera::memory
