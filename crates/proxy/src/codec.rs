//! How much memory a call holds from its beginning. The telemetry stream of a client lives as long as the client and says
//! little; with the usual 8 KiB for each direction 5,000 of them held 80 MiB.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Bytes that answers have before one needs more. Requests get what they need: most come in one piece.
const BUFFER: usize = 512;
/// Bytes of messages that are put together before they are handed on, as usual.
const HAND_ON: usize = 32 * 1024;

/// Messages `T` go out, messages `U` come in.
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        SmallCodec(PhantomData)
    }
}

impl<T: Message + 'static, U: Message + Default + 'static> Codec for SmallCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, HAND_ON))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(0, HAND_ON))
    }
}
