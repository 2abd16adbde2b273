# Two calls to a model over one connection, the second one streamed, by Perl's own HTTP::Tiny.
#
#     clients.pl BASE CA
#
# Says the length of each answer.
use strict;
use warnings;
use HTTP::Tiny;
use JSON::PP;

my ($base, $ca) = @ARGV;
my $http = HTTP::Tiny->new(verify_SSL => 1, SSL_options => {SSL_ca_file => $ca});
my %headers = ("authorization" => "Bearer sk-test-0123456789", "content-type" => "application/json");
for my $stream (0, 1) {
    my $asked = {model => "gpt-4o-mini", messages => [{role => "user", content => $stream ? "Streamed" : "Whole"}]};
    @$asked{"stream", "stream_options"} = (JSON::PP::true, {include_usage => JSON::PP::true}) if $stream;
    my $length = 0;
    my $answer = $http->post("$base/v1/chat/completions", {
        headers => \%headers,
        content => encode_json($asked),
        data_callback => sub { $length += length $_[0] },
    });
    die "$answer->{status} $answer->{reason}\n" unless $answer->{success};
    print "$length\n";
}
