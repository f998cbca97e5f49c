# Plays a tool of e2fsprogs: does its work with the real one, and then some harm.
#   perl harm.pl KIND SEED STAGE OLD_BYTES TOOL [ARGUMENT…]
# STAGE says when: `resize`, or for a checker `before` or `after` the resize, which it tells by
# OLD_BYTES, the size of the file system before. Runs where holdfast runs its tools: with perl,
# e2fsprogs and its own directory, and nothing else to write to but the file and /tmp.
#
# Says "HARM object" for what it damaged, and exits with 99 where it could not: the test asks for
# another answer then, and fails.
use strict;
use warnings;

$| = 1;
my ($kind, $seed, $stage, $old_bytes, $tool, @arguments) = @ARGV;
my $file = '/export/disk';
my ($bin) = $0 =~ m{^(.*)/};
srand $seed;

sub give_up { print "CANNOT $kind: @_\n"; exit 99 }

# The real tool: the next one in PATH.
sub real {
    my ($name, @args) = @_;
    my ($path) = grep { -x } map { "$_/$name" } grep { $_ ne $bin } split /:/, $ENV{PATH};
    return system { $path } $path, @args;
}

sub output_of {
    my @command = @_;
    open my $pipe, '-|', @command or give_up("$command[0]: $!");
    binmode $pipe;
    local $/;
    my $text = <$pipe>;
    close $pipe;
    return $text // '';
}

# debugfs exits with 0 whatever happens; what it says on standard error decides.
sub debugfs {
    my @commands = @_;
    open my $script, '>', '/tmp/commands' or give_up("/tmp: $!");
    binmode $script;
    print $script "$_\n" for @commands;
    close $script;
    my $said = output_of('/bin/sh', '-c', 'debugfs -w -f /tmp/commands "$1" 2>&1 >/tmp/said', 'sh', $file);
    my @bad = grep { !/^debugfs [0-9]/ } split /\n/, $said;
    give_up("debugfs: @bad") if @bad;
    open my $answer, '<', '/tmp/said' or give_up("/tmp/said: $!");
    binmode $answer;
    # It repeats what it was told.
    return join '', grep { !/^debugfs: / } <$answer>;
}

sub peek {
    my ($at, $count) = @_;
    open my $disk, '<:raw', $file or give_up("$file: $!");
    seek $disk, $at, 0;
    read($disk, my $bytes, $count) == $count or give_up("reading at $at");
    return $bytes;
}

sub poke {
    my ($at, $bytes) = @_;
    open my $disk, '+<:raw', $file or give_up("$file: $!");
    seek $disk, $at, 0;
    print $disk $bytes or give_up("writing at $at: $!");
    close $disk or give_up("writing at $at: $!");
}

# Of the superblock.
sub number { my ($at, $form, $count) = @_; return unpack $form, peek(1024 + $at, $count) }
sub block_bytes { return 1024 << number(0x18, 'V', 4) }
sub file_system_bytes { return number(0x04, 'V', 4) * block_bytes() }
sub has_extents { return number(0x60, 'V', 4) & 0x40 }

sub blocks { return debugfs("blocks $_[0]") =~ /(\d+)/g }

sub stat_of {
    my ($path, $name) = @_;
    my ($value) = debugfs("stat $path") =~ /\b$name:\s+(\w+)/ or give_up("no $name of $path");
    return $value =~ /^0x/ ? hex $value : $value;
}

# Every message of the mail store: [path, inode, size], in order.
sub messages {
    my @found;
    my @dirs = ('/home/anna/Maildir', '/home/bela/Maildir');
    while (defined(my $dir = shift @dirs)) {
        for (split /\n/, debugfs("ls -p $dir")) {
            my (undef, $inode, $mode, undef, undef, $name, $size) = split m{/};
            next if !defined $name || $name eq '.' || $name eq '..';
            push @dirs, "$dir/$name" if $mode =~ /^04/;
            push @found, ["$dir/$name", $inode, $size] if $mode =~ /^10/ && $size;
        }
    }
    return sort { $a->[0] cmp $b->[0] } @found;
}

sub pick { my @from = @_; @from or give_up('nothing to choose from'); return $from[rand @from] }

# Messages with one name, of more than so many bytes.
sub single {
    my ($least) = @_;
    my (%names, @all);
    @all = messages();
    $names{$_->[1]}++ for @all;
    return grep { $names{$_->[1]} == 1 && $_->[2] > $least } @all;
}

# Two different messages of at least one full block.
sub two {
    my @from = single(block_bytes());
    my $one = int rand @from;
    my $other = ($one + 1 + int rand(@from - 1)) % @from;
    return @from[$one, $other];
}

sub harmed { print "HARM $_\n" for @_ }

my %harm = (
    # Nothing: debugfs opens, writes the superblock, closes.
    none => sub { debugfs('sif / mode 040755') },

    bit => sub {
        my $message = pick(single(0));
        my @blocks = blocks($message->[0]);
        my $byte = int rand $message->[2];
        my $at = $blocks[$byte / block_bytes()] * block_bytes() + $byte % block_bytes();
        poke($at, chr(ord(peek($at, 1)) ^ 1 << int rand 8));
        harmed($message->[0]);
    },
    'zeroed-block' => sub {
        my $message = pick(single(0));
        poke(pick(blocks($message->[0])) * block_bytes(), "\0" x block_bytes());
        harmed($message->[0]);
    },
    'swapped-content' => sub {
        my ($one, $other) = two();
        my ($a, $b) = map { (blocks($_->[0]))[0] * block_bytes() } $one, $other;
        my ($x, $y) = map { peek($_, block_bytes()) } $a, $b;
        poke($a, $y);
        poke($b, $x);
        harmed($one->[0], $other->[0]);
    },
    'swapped-pointers' => sub {
        my %alike;
        for my $message (single(0)) {
            my @blocks = blocks($message->[0]);
            next if @blocks > 12 || $blocks[-1] != $blocks[0] + $#blocks;
            push @{ $alike{ scalar @blocks } }, [@$message, @blocks];
        }
        my $alike = $alike{ pick(grep { @{ $alike{$_} } > 1 } sort keys %alike) };
        my ($one, $other) = @$alike[0, 1 + int rand $#$alike];
        # A run of blocks is one number in an extent, and one number each in a map.
        for my $block (3 .. $#$one) {
            my $place = has_extents() ? 5 : $block - 3;
            debugfs("sif $one->[0] block[$place] $other->[$block]");
            debugfs("sif $other->[0] block[$place] $one->[$block]");
            last if has_extents();
        }
        harmed($one->[0], $other->[0]);
    },
    deleted => sub {
        my $message = pick(single(0));
        debugfs("rm $message->[0]");
        harmed($message->[0]);
    },
    truncated => sub {
        my $message = pick(single(2 * block_bytes()));
        debugfs("punch $message->[0] 1 1000000", "sif $message->[0] size " . block_bytes());
        harmed($message->[0]);
    },
    grown => sub {
        my $message = pick(grep { $_->[2] % block_bytes() } single(0));
        debugfs("sif $message->[0] size " . ($message->[2] + 1));
        harmed($message->[0]);
    },
    created => sub { debugfs("write $0 /created"); harmed('/created') },
    'directory-created' => sub { debugfs('mkdir /created'); harmed('/created') },
    renamed => sub {
        my $message = pick(single(0));
        debugfs("ln $message->[0] /home/renamed", "unlink $message->[0]");
        harmed('/home');
    },
    mode => sub { set('mode', '0100644') },
    owner => sub { set('uid', 8) },
    group => sub { set('gid', 70_000) },
    mtime => sub { set('mtime', 20_010_101) },
    atime => sub { set('atime', 20_010_101) },
    flags => sub {
        my $message = pick(single(0));
        debugfs(sprintf 'sif %s flags %#x', $message->[0], stat_of($message->[0], 'Flags') | 0x10);
        harmed($message->[0]);
    },
    generation => sub { set('generation', 5) },
    'attribute-new' => sub {
        my $message = pick(single(0));
        debugfs("ea_set $message->[0] user.harm done");
        harmed($message->[0]);
    },
    'attribute-changed' => sub { attribute("ea_set %s %s other") },
    'attribute-lost' => sub { attribute("ea_rm %s %s") },
    'link-lost' => sub {
        my %names;
        push @{ $names{$_->[1]} }, $_->[0] for messages();
        my $pair = $names{ pick(grep { @{ $names{$_} } == 2 } sort keys %names) };
        debugfs("unlink $pair->[1]", "sif $pair->[0] links_count 1");
        harmed($pair->[1] =~ m{^(.*)/});
    },
    'link-gained' => sub {
        my $message = pick(single(0));
        debugfs("ln $message->[0] /home/again", "sif $message->[0] links_count 2");
        harmed('/home');
    },
    symlink => sub { debugfs('sif /home/odd/short block[0] 0x41414141'); harmed('/home/odd/short') },
    'entry-elsewhere' => sub {
        my ($one, $other) = two();
        debugfs(
            "ln $one->[0] /spare", "unlink $one->[0]",
            "ln $other->[0] $one->[0]", "unlink $other->[0]",
            "ln /spare $other->[0]", 'unlink /spare',
        );
        harmed($one->[0] =~ m{^(.*)/});
    },
    'hole-filled' => sub { debugfs('fallocate /home/odd/sparse 100 110'); harmed('/home/odd/sparse') },
    uuid => sub { real('tune2fs', '-U', '11111111-2222-3333-4444-555555555555', $file) },
    label => sub { real('tune2fs', '-L', 'other', $file) },
    options => sub { real('tune2fs', '-o', 'nobarrier', $file) },
    reserved => sub { real('tune2fs', '-r', '17', $file) },
    feature => sub { debugfs('feature stable_inodes') },
    'made-time' => sub { debugfs('ssv mkfs_time 20010101') },
    'backup-superblock' => sub { poke(backup(0) + 0x78, 'other') },
    'backup-descriptors' => sub { poke(backup(1) + 8, "\xa5") },
    journal => sub { poke((blocks('<8>'))[5] * block_bytes() + 9, 'harm') },
    boot => sub { poke(77, 'boot') },
    'bitmap' => sub { debugfs('freeb ' . pick(blocks(pick(single(0))->[0]))) },
    'cross-linked' => sub {
        my $first = has_extents() ? 5 : 0;
        my ($one, $other) = two();
        debugfs("sif $one->[0] block[$first] " . (blocks($other->[0]))[0]);
    },
    # A block of a file is free, and every count and checksum agrees.
    'forged-bitmap' => sub {
        my $message = pick(single(0));
        forge(pick(blocks($message->[0])));
        harmed($message->[0]);
    },
    # Two files with one content have one block, and every count and checksum agrees.
    'forged-share' => sub {
        my ($one, $other) = map { (blocks($_))[0] } '/twin1', '/twin2';
        debugfs('sif /twin2 block[' . (has_extents() ? 5 : 0) . "] $one");
        forge($other);
        harmed('/twin2');
    },
    'inode-table' => sub {
        my ($block) = debugfs('imap /home/anna/Maildir/cur') =~ /located at block (\d+)/;
        poke($block * block_bytes(), "\0" x block_bytes());
    },
    superblock => sub { poke(1024, "\xff" x 1024) },
    remade => sub {
        my @same = ('-U', '5d1a3f0e-7c42-4b8e-9f0d-2a6b4c8e1f37', '-L', 'mail', '-b', block_bytes());
        my $blocks = number(0x04, 'V', 4);
        my $kind = has_extents() ? 'ext4' : number(0x5c, 'V', 4) & 4 ? 'ext3' : 'ext2';
        real('mke2fs', '-q', '-F', '-t', $kind, @same, $file, $blocks);
    },
    cut => sub { truncate($file, 2 << 20) or give_up("truncate: $!") },
    trimmed => sub { truncate($file, file_system_bytes() / 2) or give_up("truncate: $!") },

    exit => sub { exit 1 },
    crash => sub { unpack 'p', pack 'L!', 1 },
    hang => sub { sleep 1 while 1 },
    'hang-deaf' => sub {
        $SIG{$_} = 'IGNORE' for grep { !/^(KILL|STOP|NUM\d+)$/ } keys %SIG, 'TERM', 'INT', 'HUP';
        if (!fork) { open my $held, '+<', $file; sleep 1000 }
        close STDOUT;
        close STDERR;
        sleep 1000 while 1;
    },
    chatter => sub {
        print 'x' x 65_535, "\n" for 1 .. 1600;
        $::harm{bit}->();
    },
    unprintable => sub { print "\e[2J\e]0;title\a\xff\xfe\0\r\n"; exit 1 },
    late => sub {
        my $at = (blocks(pick(single(0))->[0]))[0] * block_bytes();
        for my $again (0, 1) {
            next if fork;
            setpgrp;
            if ($again) { exit if fork }
            open my $disk, '+<:raw', $file;
            close $_ for *STDIN, *STDOUT, *STDERR;
            select undef, undef, undef, 0.3;
            seek $disk, $at, 0;
            print $disk "\0" x block_bytes();
            close $disk;
            sleep 1000;
        }
    },
    parent => sub {
        kill $_, getppid(), 0, -1 for qw(TERM INT STOP KILL);
        kill 'KILL', 2 .. 5000;
        print "survived\n";
        exit 1;
    },
    outside => sub {
        open my $list, '<', "$bin/victims" or give_up("victims: $!");
        # What is not there it could only make in a /tmp of its own.
        for my $path (grep { -e } map { chomp; $_ } <$list>) {
            if (open my $victim, '+<', $path) { print "DONE: opened $path\n" }
            if (open my $victim, '>>', $path) { print "DONE: appended to $path\n" }
            if (unlink $path) { print "DONE: removed $path\n" }
        }
        system '/bin/sh', '-c', <<"TRY";
            try() { if "\$@" >/dev/null 2>&1; then echo "DONE: \$*"; fi; }
            try mknod /tmp/disk b 254 0
            try mknod /tmp/mem c 1 1
            try mount -t tmpfs none /tmp
            try mount -o remount,rw $bin
            try umount /export
            try unshare -Urm mount -o remount,rw,bind $bin
            try chroot / true
            try losetup -f
            try rm $file
            try touch /export/other $bin/other /usr/other /other
TRY
        print "tried\n";
        exit 1;
    },
    beyond => sub {
        open my $disk, '+<:raw', $file or give_up("$file: $!");
        seek $disk, -s $file, 0;
        print $disk 'beyond' x 1000;
        close $disk;
    },
    # Junk in every block that nothing uses: harmless, and large.
    fill => sub {
        my ($first, $total) = (number(0x14, 'V', 4), number(0x04, 'V', 4));
        my ($free) = output_of('dumpe2fs', $file) =~ /\n(Group .*)/s;
        open my $disk, '+<:raw', $file or give_up("$file: $!");
        open my $random, '<:raw', '/dev/urandom' or give_up("urandom: $!");
        for my $range ($free =~ /Free blocks: ([\d, -]+)/g) {
            for my $part (split /, */, $range) {
                my ($from, $to) = $part =~ /(\d+)(?:-(\d+))?/ or next;
                for my $block ($from .. $to // $from) {
                    read $random, my $junk, block_bytes();
                    seek $disk, $block * block_bytes(), 0;
                    print $disk $junk or last;
                }
            }
        }
        close $disk;
    },
    # Reads everything, and does not care what comes back.
    careless => sub {
        open my $disk, '<:raw', $file or give_up("$file: $!");
        my ($at, $errors) = (0, 0);
        while ($at < -s $file) {
            seek $disk, $at, 0;
            $errors++ if !defined read $disk, my $bytes, 65_536;
            $at += 65_536;
        }
        print "$errors errors\n";
        $errors or give_up('no error came');
    },
);
%::harm = %harm;

sub set {
    my ($field, $value) = @_;
    my $message = pick(single(0));
    debugfs("sif $message->[0] $field $value");
    harmed($message->[0]);
}

# Marks a block as free, and adds it to the counts.
sub forge {
    my ($block) = @_;
    my $group = int(($block - number(0x14, 'V', 4)) / number(0x20, 'V', 4));
    my $said = debugfs('stats');
    my ($all) = $said =~ /^Free blocks:\s+(\d+)/m or give_up('no count of free blocks');
    my ($free) = $said =~ /Group\s+$group: block bitmap at .*?(\d+) free block/s or give_up("no group $group");
    debugfs(
        "freeb $block", "set_bg $group free_blocks_count " . ($free + 1),
        "set_bg $group checksum calc", 'ssv free_blocks_count ' . ($all + 1),
    );
}

sub attribute {
    my ($command) = @_;
    my $path = '/home/odd/many-attributes';
    my ($name) = debugfs("ea_list $path") =~ /^\s*(user\.[\w.-]+) \(/m or give_up('no attribute');
    debugfs(sprintf $command, $path, $name);
    harmed($path);
}

# The first backup, or the descriptors behind it.
sub backup {
    my ($further) = @_;
    my $block = number(0x14, 'V', 4) + number(0x20, 'V', 4) + $further;
    $block < number(0x04, 'V', 4) or give_up('there is one group only');
    return $block * block_bytes();
}

my %instead = (
    nothing => sub { exit 0 },
    'wrong-size' => sub {
        my ($path, $size) = @arguments;
        my ($kib) = $size =~ /^(\d+)K$/ or give_up("the size is $size");
        my $wrong = ($kib * 1024 > $old_bytes ? $kib - 1024 : $kib + 1024) . 'K';
        exit real($tool, $path, $wrong) >> 8;
    },
    # Calls whatever it finds clean.
    liar => sub { real($tool, @arguments); exit 0 },
);

my $works = $stage eq 'resize' ? @arguments == 2 && $arguments[0] eq $file
    : $tool eq 'e2fsck' ? $arguments[0] ne '-V'
    : 1;
if ($works && $stage ne 'resize') {
    $works = $stage eq (file_system_bytes() == $old_bytes ? 'before' : 'after');
}
$instead{$kind}->() if $works && $instead{$kind};
my $status = real($tool, @arguments);
exit 98 if $status & 127;
exit $status >> 8 if $status;
if ($works) {
    my $harm = $harm{$kind} or give_up('unknown');
    my $failed = $harm->();
    give_up("it exited with $failed") if $kind =~ /^(uuid|label|options|reserved|remade)$/ && $failed;
}
exit 0;
