#include "kernels/attention.h"

#include "bindings/bindings.h"

namespace octavo {
namespace {

template <class Args>
void check_heads(const Args& args) {
    check(args.num_kv_heads >= 1 && args.num_heads >= 1 && args.num_heads % args.num_kv_heads == 0,
          std::to_string(args.num_heads) + " query heads cannot share " + std::to_string(args.num_kv_heads) + " key heads");
    check(args.head_dim >= 1 && args.page_size >= 1 && args.window >= 0,
          "head_dim=" + std::to_string(args.head_dim) + ", page_size=" + std::to_string(args.page_size) + ", window=" + std::to_string(args.window) + " is no attention");
    check(args.group >= 0 && args.group < kMaxGroups, "group " + std::to_string(args.group) + " does not exist; a step has " + std::to_string(kMaxGroups));
}

void check_attention(const Attention& args, int64_t max_tokens) {
    check_heads(args);
    check(max_tokens >= 0, "max_tokens=" + std::to_string(max_tokens) + " is negative");
    check(args.cache && args.plan, "cache and plan need memory");
    check(args.num_pages >= 1, "num_pages=" + std::to_string(args.num_pages) + " is no cache");
    check(args.rotated >= 0 && args.rotated % 2 == 0 && args.rotated <= args.head_dim && (args.angles || !args.rotated),
          "rotated=" + std::to_string(args.rotated) + " wants angles, and an even number of channels up to head_dim");
    const int64_t query = int64_t{args.num_heads} * args.head_dim, key = int64_t{args.num_kv_heads} * args.head_dim;
    check(max_tokens <= 1 || (args.q_stride >= query && args.out_stride >= query && args.k_stride >= key && args.v_stride >= key),
          "a stride of q, k, v or out is less than a token's heads");
}

void check_plan(const PlanAttention& args) {
    check_heads(args);
    check(args.max_rows >= 1 && args.max_tokens >= 1 && args.max_pages >= 1, "max_rows, max_tokens and max_pages are at least 1");
    const int64_t bytes = kernels().attention->plan_bytes(args);
    check(args.plan && args.plan_bytes >= bytes, "plan needs memory of " + std::to_string(bytes) + " bytes");
}

}  // namespace

void bind_attention(nb::module_& m, TapeClass& tape) {
    nb::class_<Attention> attention(m, "Attention");
    attention.def(nb::init<>());
    address(attention, "q", &Attention::q);
    address(attention, "k", &Attention::k);
    address(attention, "v", &Attention::v);
    address(attention, "norm_weight", &Attention::norm_weight);
    address(attention, "angles", &Attention::angles);
    address(attention, "out", &Attention::out);
    address(attention, "cache", &Attention::cache);
    address(attention, "sinks", &Attention::sinks);
    address(attention, "plan", &Attention::plan);
    number(attention, "kind", &Attention::kind, 3);
    attention.def_rw("q_stride", &Attention::q_stride)
        .def_rw("k_stride", &Attention::k_stride)
        .def_rw("v_stride", &Attention::v_stride)
        .def_rw("norm_eps", &Attention::norm_eps)
        .def_rw("rotated", &Attention::rotated)
        .def_rw("clip", &Attention::clip)
        .def_rw("out_stride", &Attention::out_stride)
        .def_rw("num_pages", &Attention::num_pages)
        .def_rw("page_size", &Attention::page_size)
        .def_rw("num_heads", &Attention::num_heads)
        .def_rw("num_kv_heads", &Attention::num_kv_heads)
        .def_rw("head_dim", &Attention::head_dim)
        .def_rw("window", &Attention::window)
        .def_rw("scale", &Attention::scale)
        .def_rw("softcap", &Attention::softcap)
        .def_rw("group", &Attention::group);
    attention.def_prop_ro("cache_bytes", [](const Attention& a) { return present(kernels().attention->cache_bytes, "attention")(a); });

    nb::class_<PlanAttention> plan(m, "PlanAttention");
    plan.def(nb::init<>());
    address(plan, "plan", &PlanAttention::plan);
    plan.def_rw("plan_bytes", &PlanAttention::plan_bytes)
        .def_rw("group", &PlanAttention::group)
        .def_rw("page_size", &PlanAttention::page_size)
        .def_rw("window", &PlanAttention::window)
        .def_rw("num_heads", &PlanAttention::num_heads)
        .def_rw("num_kv_heads", &PlanAttention::num_kv_heads)
        .def_rw("head_dim", &PlanAttention::head_dim)
        .def_rw("max_rows", &PlanAttention::max_rows)
        .def_rw("max_tokens", &PlanAttention::max_tokens)
        .def_rw("max_pages", &PlanAttention::max_pages)
        .def_rw("share_prefixes", &PlanAttention::share_prefixes);
    plan.def_prop_ro("bytes", [](const PlanAttention& a) { return present(kernels().attention->plan_bytes, "attention")(a); });

    tape.def("attention", [](OwnedTape& t, const Attention& args, int64_t max_tokens) {
        check_attention(args, max_tokens);
        t.limit(Rows::tokens, max_tokens, {args.q, args.k, args.v, args.out});
        t.groups.push_back(args.group);
        t.tape.append("attention", present(kernels().attention->attention, "attention"), args, kernels().attention->attention_needs(args, max_tokens));
    }, nb::arg("args"), nb::arg("max_tokens"));
    tape.def("plan_attention", [](OwnedTape& t, const PlanAttention& args) {
        present(kernels().attention->plan, "attention");
        check_plan(args);
        t.limit(Rows::tokens, args.max_tokens, {});
        t.groups.push_back(args.group);
        t.tape.append("plan_attention", present(kernels().attention->plan, "attention"), args);
    }, nb::arg("args"));
}

}  // namespace octavo
