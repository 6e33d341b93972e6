//! The macro that proves a type fit to be a map key or value.

/// Declares that `$ty` is plain old data of `$size` bytes, made of exactly the named fields.
///
/// Fails to compile when a field is missing from the list (the destructuring pattern is exhaustive), or when there is padding
/// (the sizes of the fields do not add up to the size of the type). That is the proof which the `unsafe impl`s beside it need:
/// `bytemuck` cannot derive `Pod` for types that are generic over the address family.
macro_rules! pod {
    ($name:ident $(<$family:ty>)? : $size:literal { $($field:ident),+ $(,)? }) => {
        const _: () = {
            const fn fields(row: &$name $(<$family>)?) -> usize {
                let $name { $($field),+ } = row;
                0 $(+ size_of_val($field))+
            }
            const ZERO: $name $(<$family>)? = {
                // SAFETY: every field is an integer, an array of integers or a newtype of one, for which zero is a value.
                unsafe { core::mem::zeroed() }
            };
            assert!(size_of::<$name $(<$family>)?>() == $size, "the size is not the documented one");
            assert!(fields(&ZERO) == $size, "the type has padding");
        };
        // SAFETY: zero is a value of every field, see above.
        unsafe impl bytemuck::Zeroable for $name $(<$family>)? {}
        // SAFETY: `repr(C)`, no padding (proven above), and all fields are plain integers or newtypes of them.
        unsafe impl bytemuck::Pod for $name $(<$family>)? {}
    };
}
pub(crate) use pod;
