//! Fences and hints.

use super::*;

#[test]
fn fences_and_hints_change_nothing() {
    let body = "
        membar.cta; membar.gl; membar.sys; membar.proxy.alias;
        fence.sc.gpu; fence.acq_rel.cta; fence.acquire.cluster; fence.release.sys; fence.gpu;
        fence.acquire.sync_restrict::shared::cluster.cluster; fence.release.sync_restrict::shared::cta.cluster;
        fence.mbarrier_init.release.cluster;
        fence.proxy.alias; fence.proxy.async; fence.proxy.async.global; fence.proxy.async.shared::cta;
        fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster;
        fence.proxy.tensormap::generic.release.gpu; fence.proxy.tensormap::generic.acquire.gpu [%in], 128;
        griddepcontrol.wait; griddepcontrol.launch_dependents;
        prefetch.global.L2 [%in]; prefetch.local.L1 [%in]; prefetch.L1 [%in]; prefetch.global.L2::evict_last [%in];
        prefetch.tensormap [%in]; prefetchu.L1 [%in];
        applypriority.global.L2::evict_normal [%in], 128;
        createpolicy.fractional.L2::evict_first.b64 %s1;
        createpolicy.fractional.L2::evict_last.L2::evict_unchanged.b64 %s1, 0.5;
        createpolicy.range.global.L2::evict_last.L2::evict_unchanged.b64 %s1, [%in], 128, 256;
        createpolicy.cvt.L2.b64 %s1, 7;
        cp.async.cg.shared.global.L2::cache_hint.L2::128B [%to], [%from], 16, %s1;
        cp.async.wait_all;
        st.global.u32 [%mine], %t;";
    assert_eq!(run(body)[..32], std::array::from_fn::<u32, 32, _>(|t| t as u32));
}

#[test]
fn forms_that_are_not_ptx_are_refused() {
    for body in [
        "membar.gpu;",
        "fence;",
        "fence.relaxed.gpu;",
        "fence.proxy.async.local;",
        "fence.proxy.tensormap::generic.acquire.gpu [%in], 64;",
        "fence.mbarrier_init.acquire.cluster;",
        "griddepcontrol.start;",
        "prefetch.shared.L1 [%in];",
        "prefetch.local.L2::evict_last [%in];",
        "prefetchu.L2 [%in];",
        "applypriority.global.L2::evict_last [%in], 128;",
        "discard.global.L2 [%in], 64;",
        "createpolicy.fractional.L2.b64 %s1;",
        "createpolicy.range.L2::evict_last.b64 %s1, [%in];",
        "barrier.cluster.arrive.acquire;",
        "barrier.cluster.wait.relaxed;",
        "mapa.shared::cta.u32 %r1, %to, %rank;",
        "mapa.u32 %r1, %to, %rank;",
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b64 [%to], {%s1, %s1, %s1, %s1}, [bar];",
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.b16 [%to], %r1, [bar];",
        "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.min.u64 [%to], %s1, [bar];",
    ] {
        refusal(body);
    }
}

#[test]
fn what_was_discarded_is_uninitialised() {
    let body = |address: u32| {
        format!(
            "setp.eq.u32 %p1, %t, 0; @%p1 discard.global.L2 [%in], 128; bar.sync 0;
            ld.global.u32 %r1, [%in+{address}];"
        )
    };
    let problem = launch(&body(124), WARP).unwrap_err().problem;
    assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
    launch(&body(128), WARP).unwrap();
    let problem = launch("discard.L2 [%from], 128;", WARP).unwrap_err().problem;
    assert!(matches!(problem, Problem::Misaligned { align: 128, .. }), "{problem}");
}
