// Linear merging, the KL of the student's maps and its gradients, for float32 on CPUs.
//
// A task is one sample and one student head: the maps of its teacher heads, what they merge into and
// the student's map stay in the processor's cache, and no map is ever written to memory for good.
// B batch, H heads, N tokens, D head width; products are row-major, with leading dimensions ld.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/native/CPUBlas.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>
#include <vector>

namespace {

namespace vec = at::vec;
using Vec = vec::Vectorized<float>;
using at::Tensor;

struct Matrix {
  float* data;
  int64_t ld;
  float* row(int64_t i) const { return data + i * ld; }
};

// One head of one sample of a tensor (B, H, N, D), whose D are neighbours in memory.
Matrix head(const Tensor& x, int64_t sample, int64_t number) {
  return {x.data_ptr<float>() + sample * x.stride(0) + number * x.stride(1), x.stride(2)};
}

// out (m, n) = left (m, k) right (k, n)
void product(int64_t m, int64_t n, int64_t k, Matrix left, Matrix right, Matrix out) {
  at::native::cpublas::brgemm(
      m, n, k, left.ld, right.ld, out.ld, /*add_C=*/false, left.data, right.data, out.data);
}

void transpose(int64_t rows, int64_t columns, Matrix x, Matrix out) {
  vec::transpose_mxn<float>(x.data, x.ld, out.data, out.ld, rows, columns);
}

float sum(const float* x, int64_t size) {
  return vec::reduce_all<float>([](Vec& a, Vec& b) { return a + b; }, x, size);
}

float dot(const float* x, const float* y, int64_t size) {
  return vec::map2_reduce_all<float>(
      [](Vec a, Vec b) { return a * b; }, [](Vec& a, Vec& b) { return a + b; }, x, y, size);
}

float maximum(const float* x, int64_t size) {
  return vec::reduce_all<float>([](Vec& a, Vec& b) { return vec::maximum(a, b); }, x, size);
}

void softmax(float* x, int64_t size, float factor) {
  const float top = maximum(x, size) * factor;
  vec::map<float>([=](Vec a) { return (a * Vec(factor) - Vec(top)).exp(); }, x, x, size);
  const float scale = 1 / sum(x, size);
  vec::map<float>([=](Vec a) { return a * Vec(scale); }, x, x, size);
}

// KL(target || softmax(factor * x)) of a row; its gradient of the logits takes the place of x.
float row_kl(float* x, const float* target, int64_t size, float factor) {
  const float top = maximum(x, size) * factor;
  vec::map<float>([=](Vec a) { return a * Vec(factor) - Vec(top); }, x, x, size);
  const Vec tiny(std::numeric_limits<float>::min());  // 0 log 0 = 0
  const float cross = vec::map2_reduce_all<float>(
      [=](Vec t, Vec a) { return t * (vec::maximum(t, tiny).log() - a); },
      [](Vec& a, Vec& b) { return a + b; }, target, x, size);
  vec::map<float>([](Vec a) { return a.exp(); }, x, x, size);
  const float total = sum(x, size);
  const float scale = 1 / total;
  vec::map2<float>([=](Vec a, Vec t) { return a * Vec(scale) - t; }, x, x, target, size);
  return cross + std::log(total);
}

// A head, or what heads were merged into: its map, and the columns of V that it owns.
struct Head {
  Matrix map;
  int64_t column, width;
};

struct Sizes {
  int64_t tokens;
  int64_t group;   // teacher heads of a student head, at most
  int64_t values;  // columns of V that they own
  int64_t widest;  // of whatever is transposed

  int64_t ld() const { return (tokens + 15) / 16 * 16; }
};

// What a thread needs for a task.
struct Scratch {
  explicit Scratch(const Sizes& s)
      : memory(at::empty({(s.group + 1) * s.tokens * s.ld() + 2 * s.widest * s.ld() +
                              s.tokens * s.values + s.values * s.values},
                         at::kFloat)) {
    float* next = memory.data_ptr<float>();
    const auto take = [&next](int64_t rows, int64_t ld) {
      const Matrix matrix{next, ld};
      next += rows * ld;
      return matrix;
    };
    for (int64_t i = 0; i < s.group; ++i) maps.push_back(take(s.tokens, s.ld()));
    delta = take(s.tokens, s.ld());
    transposed = take(s.widest, s.ld());
    gradient = take(s.widest, s.ld());
    u = take(s.tokens, s.values);
    inner = take(s.values, s.values);
  }

  Tensor memory;
  std::vector<Matrix> maps;
  Matrix delta, transposed, gradient, u, inner;
};

// Eq. 9: the clamped weight of the first head, from U = delta V and the Gram matrix of W^O.
float weight(const Head& a, const Head& b, int64_t tokens, Matrix v, Matrix gram, Scratch& s) {
  const int64_t width = a.width + b.width;
  product(tokens, width, tokens, s.delta, {v.data + a.column, v.ld}, s.u);
  transpose(tokens, width, s.u, s.transposed);
  // U^T U is symmetric: without the block of b and a.
  product(a.width, width, tokens, s.transposed, s.u, s.inner);
  const Matrix right{s.u.data + a.width, s.u.ld}, below{s.inner.row(a.width) + a.width, s.inner.ld};
  product(b.width, b.width, tokens, {s.transposed.row(a.width), s.transposed.ld}, right, below);
  double aa = 0, ab = 0, bb = 0;
  for (int64_t i = 0; i < width; ++i) {
    const float *row = s.inner.row(i), *weights = gram.row(a.column + i) + a.column;
    if (i < a.width) {
      aa += dot(row, weights, a.width);
      ab += dot(row + a.width, weights + a.width, b.width);
    } else {
      bb += dot(row + a.width, weights + a.width, b.width);
    }
  }
  const double norm = aa + 2 * ab + bb;
  // Equal heads: every weight gives the same map. What is no number stays none.
  return norm <= 0 ? 0.5 : std::clamp((aa + ab) / norm, 0.0, 1.0);
}

Head merge(const Head& a, const Head& b, int64_t tokens, Matrix v, Matrix gram, Scratch& s) {
  for (int64_t i = 0; i < tokens; ++i) {
    vec::map2<float>([](Vec x, Vec y) { return x - y; }, s.delta.row(i), a.map.row(i), b.map.row(i),
                     tokens);
  }
  const float alpha = weight(a, b, tokens, v, gram, s);
  for (int64_t i = 0; i < tokens; ++i) {
    vec::map2<float>([=](Vec x, Vec d) { return x + Vec(alpha) * d; }, a.map.row(i), b.map.row(i),
                     s.delta.row(i), tokens);
  }
  return {a.map, a.column, a.width + b.width};
}

// Pass after pass, neighbours merge and an odd one out is carried over.
Head merge_all(std::vector<Head> heads, int64_t tokens, Matrix v, Matrix gram, Scratch& s) {
  while (heads.size() > 1) {
    std::vector<Head> next;
    for (size_t i = 0; i + 1 < heads.size(); i += 2) {
      next.push_back(merge(heads[i], heads[i + 1], tokens, v, gram, s));
    }
    if (heads.size() % 2) next.push_back(heads.back());
    heads = std::move(next);
  }
  return heads.front();
}

// out (N, N) = Q K^T of one head, unscaled.
void logits(Matrix q, Matrix k, int64_t tokens, int64_t width, Matrix out, Scratch& s) {
  transpose(tokens, width, k, s.transposed);
  product(tokens, tokens, width, q, s.transposed, out);
}

// Sum of the KL over all rows; its gradients of query and key, still without `factor`.
std::tuple<Tensor, Tensor, Tensor> squeezed_kl(
    const Tensor& query, const Tensor& key, const Tensor& teacher_query, const Tensor& teacher_key,
    const Tensor& value, const Tensor& gram, at::IntArrayRef groups, double factor,
    double teacher_factor) {
  const int64_t batch = query.size(0), heads = query.size(1), tokens = query.size(2);
  const int64_t width = query.size(3), teacher_width = teacher_query.size(3);
  const int64_t value_width = value.size(3);
  const int64_t group_size = *std::max_element(groups.begin(), groups.end());
  const int64_t values = group_size * value_width;
  const Sizes sizes{tokens, group_size, values, std::max({values, width, teacher_width})};
  const auto empty = [&] { return at::empty({batch, tokens, heads, width}).transpose(1, 2); };
  const Tensor grad_query = empty(), grad_key = empty();
  const Tensor losses = at::empty({batch, heads}, at::kDouble);
  double* loss = losses.data_ptr<double>();
  std::vector<int64_t> first(heads, 0);
  std::partial_sum(groups.begin(), groups.end() - 1, first.begin() + 1);

  at::parallel_for(0, batch * heads, 1, [&](int64_t begin, int64_t end) {
    Scratch s(sizes);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t sample = task / heads, number = task % heads;
      std::vector<Head> group;
      for (int64_t i = 0; i < groups[number]; ++i) {
        const int64_t other = first[number] + i;
        logits(head(teacher_query, sample, other), head(teacher_key, sample, other), tokens,
               teacher_width, s.maps[i], s);
        for (int64_t j = 0; j < tokens; ++j) softmax(s.maps[i].row(j), tokens, teacher_factor);
        group.push_back({s.maps[i], other * value_width, value_width});
      }
      const Matrix v{head(value, sample, 0).data, value.stride(2)};
      const Matrix inner{gram.data_ptr<float>(), gram.stride(0)};
      const Matrix target = merge_all(group, tokens, v, inner, s).map;

      const Matrix q = head(query, sample, number), k = head(key, sample, number);
      const Matrix residual = s.delta;  // what it held is merged
      logits(q, k, tokens, width, residual, s);
      double total = 0;
      for (int64_t j = 0; j < tokens; ++j) {
        total += row_kl(residual.row(j), target.row(j), tokens, factor);
      }
      loss[task] = total;
      product(tokens, width, tokens, residual, k, head(grad_query, sample, number));
      // dK = R^T Q, as (Q^T R)^T: Q is the smaller one to transpose.
      transpose(tokens, width, q, s.transposed);
      product(width, tokens, tokens, s.transposed, residual, s.gradient);
      transpose(width, tokens, s.gradient, head(grad_key, sample, number));
    }
    at::native::cpublas::brgemm_release(/*is_vnni=*/false);
  });
  return {losses.sum().to(at::kFloat), grad_query, grad_key};
}

}  // namespace

TORCH_LIBRARY(shd_vit, library) {
  library.def("squeezed_kl", &squeezed_kl);
}
