#!/usr/bin/perl
# Makes the content of a mail store: mail.pl STAGE MESSAGES SEED
#
# Writes the files below STAGE/f and a debugfs script, STAGE/script, that puts them into a file
# system. A script, and not `mke2fs -d`: that takes the order of the host's directories and the
# time of the host's inodes, and both differ from run to run.
use strict;
use warnings;

my ($stage, $messages, $seed) = @ARGV;
my $EPOCH = 1735786800;    # 2025-01-02 03:00:00 UTC
my @USERS = qw(anna bela carl dora emil fritz gerda hans);
my @WORDS = qw(invoice meeting regards attached Monday server please contract numbers tomorrow
    offer budget the with from before schedule confirm delivery question);

# An own generator: the same numbers in every perl. The prototype lets below(@LIST) count the list.
my $state = $seed & 0x7FFFFFFF || 1;
sub below($) { $state = $state * 48271 % 0x7FFFFFFF; return $state % shift }

open my $script, '>:raw', "$stage/script" or die "$stage/script: $!";
sub say_ { print $script @_, "\n" or die "$stage/script: $!" }

my ($files, $now) = (0, $EPOCH);
sub tick { $now += shift; say_ "set_current_time \@$now" }

# Stages a file and has debugfs copy it. The mode is the staged file's, so umask must not matter.
sub put {
    my ($name, $content, $mode) = @_;
    my $dir = "$stage/f/" . int($files / 1000);
    mkdir $dir if $files % 1000 == 0;
    my $path = "$dir/" . $files++;
    open my $out, '>:raw', $path or die "$path: $!";
    if (ref $content) {
        for (@$content) { seek $out, $_->[0], 0; print $out $_->[1] or die "$path: $!" }
    } else {
        print $out $content or die "$path: $!";
    }
    close $out or die "$path: $!";
    chmod $mode // 0600, $path or die "$path: $!";
    say_ qq(write $path "$name");
}

sub folders {
    my $at = shift;
    for my $dir (@_) { say_ "mkdir $at/$dir" }
}

my @TEXT = map {
    join ' ', map { $WORDS[below(@WORDS)] } 0 .. 8
} 1 .. 509;
my $BASE64 = join "\n", map {
    join '', map { ('A' .. 'Z', 'a' .. 'z', 0 .. 9, '+', '/')[below(64)] } 1 .. 76
} 1 .. 997;

# Mostly 1 to 8 KiB, one in 50 with an attachment of up to 150 KiB, one in 1000 of about 1 MiB.
sub message {
    my ($i, $user) = @_;
    my $from = $USERS[below(@USERS)];
    my $mail = "From: $from\@example.com\nTo: $user\@example.org\nSubject: $TEXT[$i % @TEXT] $i\n"
        . "Date: Thu, 02 Jan 2025 03:00:00 +0000\nMessage-ID: <$i.$seed\@example.com>\n\n";
    for (1 .. 10 + below(100)) { $mail .= "$TEXT[below(@TEXT)] $_\n" }
    if ($i % 1000 == 999) { $mail .= ("$BASE64\n") x 14 }
    elsif ($i % 50 == 49) { $mail .= substr($BASE64, below(60000), 10000 + below(6000)) . "\n" x 2 }
    return $mail;
}

mkdir "$stage/f" or die "$stage/f: $!";
tick(0);
say_ 'mkdir /home';
# debugfs searches a directory from its start for room, so none may grow beyond some thousands.
my $count = $messages < 800 ? 2 : $messages < 20000 ? 8 : int($messages / 2500);
my @users = map { $USERS[$_] // "user$_" } 0 .. $count - 1;
for my $user (@users) {
    my $box = "/home/$user/Maildir";
    folders("/home", $user);
    folders("/home/$user", 'Maildir');
    folders($box, qw(cur new tmp .Sent .Archive));
    for my $sub (qw(.Sent .Archive)) { folders("$box/$sub", qw(cur new tmp)) }
}

# The first user has more than the others: a directory that is indexed.
my $most = $messages < 16000 ? int($messages / 2) : 8000;
my ($i, $links) = (0, 0);
for my $u (0 .. $#users) {
    my $user  = $users[$u];
    my $box   = "/home/$user/Maildir";
    my $share = $u == 0 ? $most : int(($messages - $most) / $#users);
    $share = $messages - $i if $u == $#users;
    my %in = (cur => int($share * 0.8), new => int($share * 0.1));
    $in{'.Sent/cur'} = $share - $in{cur} - $in{new};
    for my $dir (qw(cur new .Sent/cur)) {
        say_ "cd $box/$dir";
        for (1 .. $in{$dir}) {
            my $mail  = message($i, $user);
            my $lines = $mail =~ tr/\n//;
            my $name  = sprintf '%d.M%06dP%d.mx1,S=%d,W=%d', $now, $i, 4000 + $u, length $mail,
                length($mail) + $lines;
            $name .= ':2,' . ('', 'S', 'RS', 'FS')[$i % 4] if $dir ne 'new';
            put($name, $mail);
            if ($i % 100 == 7) {
                # ln does not make a directory larger, and does not count the link.
                say_ "expand_dir $box/.Archive/cur" if $links++ % 8 == 0;
                say_ qq(ln "$name" "$box/.Archive/cur/$name");
                say_ qq(sif "$name" links_count 2);
            }
            say_ qq(ea_set "$name" user.flags "\$label$i") if $i % 100 == 13;
            tick(1 + below(20)) if $i % 5 == 0;
            $i++;
        }
    }
    tick(1);
    say_ "cd $box";
    put("$_/maildirfolder", '', 0600) for qw(.Sent .Archive);
    put('subscriptions', ".Sent\n.Archive\n");
    put('dovecot-uidlist', '');
}

# What a file system can hold beside plain files.
say_ 'cd /home';
say_ 'mkdir odd';
say_ 'cd odd';
say_ 'symlink short ../anna/Maildir';
say_ 'symlink long /' . join '/', map { "a-rather-long-directory-name-$_" } 1 .. 5;
say_ 'symlink dangling nowhere';
put('x' x 255,          "a name of 255 bytes\n");
put("caf\xe9",          "a name that is not UTF-8\n");
put('with space',       "a name with a space\n", 0644);
put('sparse', [[0, "head\n"], [1 << 20, 'middle'], [(3 << 20) - 5, "tail\n"]]);
put('large.mbox', [map { [$_ * length $BASE64, $BASE64] } 0 .. 6], 0640);
put('empty', '', 0400);
put('setuid', "#!/bin/sh\n", 04755);
put('many-attributes', "its attributes need a block of their own\n");
for (1 .. 6) { say_ "ea_set many-attributes user.attribute$_ " . ('v' x 60) . $_ }
say_ 'mkdir nothing-inside';
say_ 'mknod pipe p';
close $script or die "$stage/script: $!";
