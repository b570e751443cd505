#include "kernels/attention.h"

#include "bindings/bindings.h"

namespace octavo {

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
    number(attention, "kind", &Attention::kind);
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
        t.tape.append("attention", present(kernels().attention->attention, "attention"), args, kernels().attention->attention_needs(args, max_tokens));
    }, nb::arg("args"), nb::arg("max_tokens"));
    tape.def("plan_attention", [](OwnedTape& t, const PlanAttention& args) {
        t.tape.append("plan_attention", present(kernels().attention->plan, "attention"), args);
    }, nb::arg("args"));
}

}  // namespace octavo
