"""The collectives of a compiled function."""

import pytest

from hq_jax.runtime import collectives


@pytest.mark.parametrize(
  ('shape', 'num_bytes'),
  [
    ('f32[]', 4),
    ('f32[3,3,64,8]{3,2,1,0}', 3 * 3 * 64 * 8 * 4),
    ('bf16[128]{0:T(8,128)(2,1)S(1)}', 256),
    ('f8e4m3fn[5]{0}', 5),
    ('c64[2]', 16),
    ('pred[7]{0}', 7),
    # Four in a byte, and the fifth in another.
    ('s2[5]{0}', 2),
    ('s32[<=8,2]{1,0}', 64),
    ('f32[0,4]{1,0}', 0),
    ('token[]', 0),
    ('(f32[2]{0}, s8[3]{0}, /*index=2*/(u32[], u64[]))', 8 + 3 + 4 + 8),
  ],
)
def test_the_bytes_of_shapes(shape, num_bytes):
  assert collectives.count_shape_bytes(shape) == num_bytes


_HLO = """\
HloModule jit_step, is_scheduled=true
%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}
%all-reduce-scatter.4 (a: f32[8], b: s8[8]) -> (f32[2]{0}, s8[2]{0}) {
  %r = (f32[8]{0}, s8[8]{0}) all-reduce(%a, %b), to_apply=%sum
  ROOT %t = (f32[2]{0}, s8[2]{0}) tuple(%x, %y)
}
ENTRY %main {
  %a.1 = f32[8,4]{1,0} all-gather(%p), replica_groups=[1,8]<=[8], dimensions={0}
  %a.2 = bf16[2]{0} all-gather(%q), metadata={op_name="jit(f) all-to-all(x)"}
  %r = (f32[6]{0}, /*index=1*/s32[]) all-reduce(%x, %y), to_apply=%sum
  %x.1 = f32[9]{0} fusion(%b), calls=%c, metadata={op_name="= f32 all-reduce(y"}
  %s = (f32[1]{0}, f32[8]{0}) all-gather-start(%p), dimensions={0}
  %d = f32[8]{0} all-gather-done(%s)
  %t = ((f32[16]{0}), f32[2]{0}, u32[]) reduce-scatter-start(%z), dimensions={0}
  %u = f32[2]{0} reduce-scatter-done(%t)
  %v = (f32[3]{0}, s32[]) tuple(%r, %d), metadata={op_name="f(x) all-to-all(x)"}
  %w = (f32[3]{0}, f32[3]{0}) fusion(%all-to-all.2, %d), kind=kLoop
  %k.1 = f32[4]{0} all-gather(%p), channel_id=3, attributes={chain_id="0"}
  %k.2 = f32[4]{0:S(1)} all-gather(%p), channel_id=3, attributes={chain_id="0"}
  %k.3 = f32[4]{0} all-gather(%p), channel_id=3, attributes={chain_id="1"}
  ROOT collective-permute.3 = s8[10]{0} collective-permute(m), source={{0,1}}
}
"""


def test_collectives_are_counted_by_hand():
  nothing = {'count': 0, 'bytes': 0, 'largest_bytes': 0}
  assert collectives.count(_HLO) == {
    'all-gather': {
      'count': 5,
      'bytes': 128 + 4 + 32 + 2 * 16,
      'largest_bytes': 128,
    },
    'all-reduce': {'count': 1, 'bytes': 24 + 4, 'largest_bytes': 24},
    'reduce-scatter': {'count': 2, 'bytes': 8 + 10, 'largest_bytes': 8},
    'collective-permute': {'count': 1, 'bytes': 10, 'largest_bytes': 10},
    'all-to-all': nothing,
  }
