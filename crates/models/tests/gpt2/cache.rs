use longhand_models::gpt2::KvCache;
use longhand_tensor::{Device, Tensor};
use proptest::prelude::*;

use crate::{assert_close, tiny};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However the tokens are cut into steps, each step ends with the logits of the last position so far.
    #[test]
    fn logits_with_a_cache_are_those_without(
        batch in 1..4usize,
        steps in prop::collection::vec(1..6usize, 1..6),
        seed: u32,
    ) {
        let model = tiny();
        let tokens: usize = steps.iter().sum::<usize>().min(24);
        let ids: Vec<u32> = (0..batch * tokens).map(|i| (seed.wrapping_add(i as u32)).wrapping_mul(2_654_435_761) % 61).collect();
        let ids = Tensor::from_vec(ids, &[batch, tokens], &Device::Cpu).unwrap();
        let full = model.forward(&ids).unwrap();

        let mut cache = KvCache::new();
        for step in steps {
            let step = step.min(tokens - cache.tokens());
            if step == 0 {
                break;
            }
            let new = ids.narrow(1, cache.tokens(), step).unwrap();
            let logits = model.forward_with_cache(&new, &mut cache).unwrap();
            prop_assert_eq!(logits.shape(), [batch, 61]);
            let last = full.narrow(1, cache.tokens() - 1, 1).unwrap();
            assert_close(&logits.to_vec().unwrap(), &last.to_vec().unwrap(), 1e-4);
        }
        prop_assert_eq!(cache.tokens(), tokens);
    }
}

#[test]
fn a_step_that_fails_leaves_the_cache_as_it_was() {
    let model = tiny();
    let ids = |ids: &[u32], shape: &[usize]| Tensor::from_slice(ids, shape, &Device::Cpu).unwrap();
    let mut cache = KvCache::new();
    model.forward_with_cache(&ids(&[1, 2, 3], &[1, 3]), &mut cache).unwrap();

    let mut fails = |step: Tensor| model.forward_with_cache(&step, &mut cache).unwrap_err().to_string();
    assert!(fails(ids(&[4; 22], &[1, 22])).contains("25 tokens"));
    assert!(fails(ids(&[4, 4], &[2, 1])).contains("cache is of 1 texts"));
    assert!(fails(ids(&[], &[1, 0])).contains("T at least 1"));
    assert!(fails(ids(&[99], &[1, 1])).contains("99"));

    assert_eq!(cache.tokens(), 3);
    let next = model.forward_with_cache(&ids(&[4], &[1, 1]), &mut cache).unwrap();
    let full = model.forward(&ids(&[1, 2, 3, 4], &[1, 4])).unwrap().narrow(1, 3, 1).unwrap();
    assert_close(&next.to_vec().unwrap(), &full.to_vec().unwrap(), 1e-4);
}

#[test]
fn what_comes_from_a_cache_has_no_gradient() {
    let ids = Tensor::from_slice(&[1u32], &[1, 1], &Device::Cpu).unwrap();
    assert!(!tiny().forward_with_cache(&ids, &mut KvCache::new()).unwrap().needs_gradient());
}
