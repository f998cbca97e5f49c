#!/usr/bin/perl
# Writes a GPT on an image: gpt.pl IMAGE SECTOR_BYTES  then one "SLOT TYPE START_BYTES LENGTH_BYTES
# ATTRIBUTES NAME" a line on stdin. sfdisk can do this for 512-byte sectors only, unless it is
# given a loop device, which needs root.
use strict;
use warnings;
no warnings 'portable';    # 64-bit numbers are meant

my ($image, $sector) = @ARGV;
my $COUNT = 128;
my %TYPE = (
    esp   => 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b',
    linux => '0fc63daf-8483-4772-8e79-3d69d8477de4',
    swap  => '0657fd6d-a4ab-43c4-84e5-0933c84b4f4f',
);

my @crc = map { my $c = $_; $c = $c & 1 ? 0xEDB88320 ^ $c >> 1 : $c >> 1 for 1 .. 8; $c } 0 .. 255;

sub crc32 {
    my $c = 0xFFFFFFFF;
    $c = $crc[($c ^ $_) & 0xFF] ^ $c >> 8 for unpack 'C*', shift;
    return $c ^ 0xFFFFFFFF;
}

# The first three fields of a GUID are little-endian on disk.
sub guid {
    my @f = split /-/, shift;
    return pack 'VvvH4H12', hex $f[0], hex $f[1], hex $f[2], $f[3], $f[4];
}

my $array = "\0" x (128 * $COUNT);
while (my $line = <STDIN>) {
    my ($slot, $type, $start, $length, $attributes, $name) = split ' ', $line, 6;
    die "not on a sector boundary: $line" if $start % $sector or $length % $sector;
    chomp $name;
    my $entry = guid($TYPE{$type}) . guid(sprintf '6f1d1c2a-5b0e-4c3f-9a77-%012x', $slot)
        . pack('Q<Q<Q<', $start / $sector, ($start + $length) / $sector - 1, hex $attributes)
        . pack('v*', unpack 'C*', $name);
    substr $array, 128 * ($slot - 1), length $entry, $entry;
}

my $sectors = int((-s $image) / $sector);
my ($last, $array_sectors) = ($sectors - 1, 128 * $COUNT / $sector);
my ($first_usable, $last_usable) = (2 + $array_sectors, $last - $array_sectors - 1);

sub header {
    my ($at, $other, $entries) = @_;
    my $with = sub {
        return pack 'a8VVVVQ<Q<Q<Q<a16Q<VVV', 'EFI PART', 0x10000, 92, shift, 0, $at, $other,
            $first_usable, $last_usable, guid('0fd0c5b7-5a2e-4f4d-9e0b-6c1a8f3e2d10'), $entries,
            $COUNT, 128, crc32($array);
    };
    return $with->(crc32($with->(0)));
}

my $size = $last > 0xFFFFFFFF ? 0xFFFFFFFF : $last;
open my $out, '+<:raw', $image or die "$image: $!";
for (
    [446, pack 'C8VV', 0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, $size],
    [510, "\x55\xAA"],
    [$sector, header(1, $last, 2)],
    [2 * $sector, $array],
    [($last - $array_sectors) * $sector, $array],
    [$last * $sector, header($last, 1, $last - $array_sectors)],
) {
    seek $out, $_->[0], 0 and print $out $_->[1] or die "$image: $!";
}
close $out or die "$image: $!";
