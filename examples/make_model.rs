//! Writes a small model into a new directory: safetensors shards with an index, `config.json` and
//! `tokenizer.json`, always the same. Usage: `make_model DIR [MIB_OF_EACH_SHARD]`.
//!
//! A shard is a length, a JSON header and the tensors one after the other
//! (<https://github.com/huggingface/safetensors>, "Format").

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

const SHARDS: u64 = 4;
const SHARD_MIB: u64 = 24;

/// Values of a row: with two bytes for each, a row is 2 KiB.
const HIDDEN: u64 = 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let directory = arguments.next().ok_or("usage: make_model DIR [MIB_OF_EACH_SHARD]")?;
    let directory = Path::new(&directory);
    let shard_mib = match arguments.next() {
        Some(text) => text.to_str().ok_or("the size is no number")?.parse()?,
        None => SHARD_MIB,
    };
    std::fs::create_dir(directory)?;
    let mut weight_map = Map::new();
    for shard in 1..=SHARDS {
        let name = format!("model-{shard:05}-of-{SHARDS:05}.safetensors");
        let tensors = write_shard(&directory.join(&name), shard, shard_mib)?;
        weight_map.extend(tensors.into_iter().map(|tensor| (tensor, Value::from(name.as_str()))));
    }
    let total = SHARDS * shard_mib * 1024 * 1024;
    write_json(
        &directory.join("model.safetensors.index.json"),
        &json!({ "metadata": { "total_size": total }, "weight_map": weight_map }),
    )?;
    write_json(
        &directory.join("config.json"),
        &json!({
            "architectures": ["DemoForCausalLM"],
            "hidden_size": HIDDEN,
            "model_type": "demo",
            "num_hidden_layers": SHARDS,
            "torch_dtype": "bfloat16",
        }),
    )?;
    let vocabulary: Map<String, Value> =
        (0..256_u64).map(|id| (format!("<{id:#04x}>"), Value::from(id))).collect();
    write_json(
        &directory.join("tokenizer.json"),
        &json!({ "version": "1.0", "model": { "type": "BPE", "vocab": vocabulary, "merges": [] } }),
    )?;
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<(), Box<dyn Error>> {
    let mut file = File::create_new(path)?;
    serde_json::to_writer_pretty(&mut file, value)?;
    writeln!(file)?;
    Ok(())
}

/// Writes one shard and returns the names of its tensors.
fn write_shard(path: &Path, shard: u64, mib: u64) -> Result<Vec<String>, Box<dyn Error>> {
    let tensor_bytes = mib * 1024 * 1024 / 4;
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut names = Vec::new();
    for (number, part) in ["q_proj", "k_proj", "v_proj", "o_proj"].into_iter().enumerate() {
        let name = format!("model.layers.{}.self_attn.{part}.weight", shard - 1);
        let begin = number as u64 * tensor_bytes;
        header.insert(
            name.clone(),
            json!({
                "dtype": "BF16",
                "shape": [tensor_bytes / 2 / HIDDEN, HIDDEN],
                "data_offsets": [begin, begin + tensor_bytes],
            }),
        );
        names.push(name);
    }
    let mut header = serde_json::to_string(&header)?;
    // The tensors begin at a multiple of eight bytes.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut file = BufWriter::new(File::create_new(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut state = shard;
    for _ in 0..tensor_bytes * 4 / 8 {
        state = next(state);
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()?;
    Ok(names)
}

/// Content that neither compresses nor repeats (xorshift64; Marsaglia, 2003).
fn next(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}
