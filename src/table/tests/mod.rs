//! Tests of the whole codec over disks in memory.

mod damage;
mod edit;
mod mbr;
mod reading;
