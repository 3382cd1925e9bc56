//! Reading a flatbuffer where it lies (flatbuffers, "Internals"), as far as a zTOC needs it.
//!
//! Nothing is verified beforehand: every offset is checked when it is followed, and only those that the schema names
//! are. A field that is not there has its default. All numbers are little endian.

/// An offset that leads out of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// A table: numbers, strings, vectors and further tables, by the number of their field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    document: &'a [u8],
    /// Where it lies.
    at: usize,
    /// Offsets of its fields from there, of two bytes each.
    slots: &'a [u8],
}

/// A list of strings or tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vector<'a> {
    document: &'a [u8],
    /// Where the first of its offsets lies.
    at: usize,
    count: usize,
}

impl<'a> Table<'a> {
    /// The table that the document is about.
    pub(super) fn root(document: &'a [u8]) -> Result<Self, Damaged> {
        Self::new(document, follow(document, 0)?)
    }

    fn new(document: &'a [u8], at: usize) -> Result<Self, Damaged> {
        let back = i64::from(i32::from_le_bytes(array(document, at)?));
        let vtable = i64::try_from(at).map_err(|_| Damaged)?.checked_sub(back).ok_or(Damaged)?;
        let vtable = usize::try_from(vtable).map_err(|_| Damaged)?;
        let bytes = usize::from(u16::from_le_bytes(array(document, vtable)?));
        let whole = vtable.checked_add(bytes).and_then(|end| document.get(vtable..end)).ok_or(Damaged)?;
        // Its own size and that of the table come first.
        Ok(Self { document, at, slots: whole.get(4..).ok_or(Damaged)? })
    }

    /// Where the field lies; none when it has its default.
    fn field(&self, number: usize) -> Result<Option<usize>, Damaged> {
        let slot = number * 2;
        let Some(slot) = self.slots.get(slot..slot + 2) else { return Ok(None) };
        match u16::from_le_bytes(array(slot, 0)?) {
            0 => Ok(None),
            offset => self.at.checked_add(usize::from(offset)).map(Some).ok_or(Damaged),
        }
    }

    fn number<const N: usize>(&self, number: usize) -> Result<Option<[u8; N]>, Damaged> {
        self.field(number)?.map(|at| array(self.document, at)).transpose()
    }

    pub(super) fn i64(&self, number: usize) -> Result<i64, Damaged> {
        Ok(self.number(number)?.map_or(0, i64::from_le_bytes))
    }

    pub(super) fn i32(&self, number: usize) -> Result<i32, Damaged> {
        Ok(self.number(number)?.map_or(0, i32::from_le_bytes))
    }

    pub(super) fn u32(&self, number: usize) -> Result<u32, Damaged> {
        Ok(self.number(number)?.map_or(0, u32::from_le_bytes))
    }

    pub(super) fn u8(&self, number: usize, default: u8) -> Result<u8, Damaged> {
        Ok(self.number(number)?.map_or(default, u8::from_le_bytes))
    }

    /// A string or a vector of bytes.
    pub(super) fn bytes(&self, number: usize) -> Result<&'a [u8], Damaged> {
        match self.field(number)? {
            Some(at) => bytes_at(self.document, at),
            None => Ok(&[]),
        }
    }

    pub(super) fn table(&self, number: usize) -> Result<Option<Self>, Damaged> {
        let Some(at) = self.field(number)? else { return Ok(None) };
        Self::new(self.document, follow(self.document, at)?).map(Some)
    }

    pub(super) fn vector(&self, number: usize) -> Result<Vector<'a>, Damaged> {
        let document = self.document;
        let Some(at) = self.field(number)? else { return Ok(Vector { document, at: 0, count: 0 }) };
        let at = follow(document, at)?;
        let count = usize::try_from(u32::from_le_bytes(array(document, at)?)).map_err(|_| Damaged)?;
        let at = at.checked_add(4).ok_or(Damaged)?;
        let end = count.checked_mul(4).and_then(|bytes| bytes.checked_add(at)).ok_or(Damaged)?;
        if end > document.len() {
            return Err(Damaged);
        }
        Ok(Vector { document, at, count })
    }
}

impl<'a> Vector<'a> {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn item(&self, place: usize) -> Result<usize, Damaged> {
        if place >= self.count {
            return Err(Damaged);
        }
        Ok(self.at + place * 4)
    }

    pub(super) fn bytes(&self, place: usize) -> Result<&'a [u8], Damaged> {
        bytes_at(self.document, self.item(place)?)
    }

    pub(super) fn table(&self, place: usize) -> Result<Table<'a>, Damaged> {
        Table::new(self.document, follow(self.document, self.item(place)?)?)
    }
}

/// The bytes that the offset at `at` leads to, after their number.
fn bytes_at(document: &[u8], at: usize) -> Result<&[u8], Damaged> {
    let at = follow(document, at)?;
    let bytes = usize::try_from(u32::from_le_bytes(array(document, at)?)).map_err(|_| Damaged)?;
    let start = at.checked_add(4).ok_or(Damaged)?;
    start.checked_add(bytes).and_then(|end| document.get(start..end)).ok_or(Damaged)
}

/// Where the offset at `at` leads.
fn follow(document: &[u8], at: usize) -> Result<usize, Damaged> {
    let offset = usize::try_from(u32::from_le_bytes(array(document, at)?)).map_err(|_| Damaged)?;
    at.checked_add(offset).ok_or(Damaged)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Damaged> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or(Damaged)
}
