#!/usr/bin/perl
# Writes an MBR on an image: mbr.pl IMAGE SECTOR_BYTES  then one "NUMBER TYPE START_BYTES LENGTH_BYTES
# FLAG" a line on stdin, the logical partitions (from 5 on) last, in order. The EBR of the first one
# stands where the extended partition starts, those of the others 64 KiB before their partitions.
use strict;
use warnings;

my ($image, $sector) = @ARGV;
my %TYPE = (esp => 0xEF, linux => 0x83, swap => 0x82, extended => 0x05);

# Addresses by cylinder say "not to be represented", as on every large disk.
sub entry {
    my ($flag, $type, $first, $length) = @_;
    return pack 'C8VV', $flag, 0xFE, 0xFF, 0xFF, $type, 0xFE, 0xFF, 0xFF, $first / $sector,
        $length / $sector;
}

my ($mbr, $extended, @logical) = ("\0" x 64, undef);
while (my $line = <STDIN>) {
    my ($number, $type, $start, $length, $flag) = split ' ', $line;
    die "not on a sector boundary: $line" if $start % $sector or $length % $sector;
    if ($number > 4) {
        my $ebr = @logical ? $start - 65536 : $extended;
        push @logical, [$ebr, $type, $start, $length];
        next;
    }
    $extended = $start if $type eq 'extended';
    substr $mbr, 16 * ($number - 1), 16, entry(hex $flag, $TYPE{$type}, $start, $length);
}

open my $out, '+<:raw', $image or die "$image: $!";
my $put = sub {
    my ($at, $bytes) = @_;
    seek $out, $at, 0 and print $out $bytes or die "$image: $!";
};
$put->(440, pack('VH4', 0x5d1a3f0e, '0000') . $mbr . "\x55\xAA");
for my $n (0 .. $#logical) {
    my ($ebr, $type, $start, $length) = @{$logical[$n]};
    my $entries = entry(0, $TYPE{$type}, $start - $ebr, $length);
    if (my $next = $logical[$n + 1]) {
        my ($at, $end) = ($next->[0], $next->[2] + $next->[3]);
        $entries .= entry(0, $TYPE{extended}, $at - $extended, $end - $at);
    }
    $put->($ebr + 446, $entries . "\0" x (64 - length $entries) . "\x55\xAA");
}
close $out or die "$image: $!";
