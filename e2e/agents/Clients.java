import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

/**
 * Two calls to a model, the second one streamed, by Java's own client.
 *
 * <p>{@code Clients [BASE]}, once it is told a line or its input ends; without BASE it ends then. Says the status and the
 * number of lines of each answer.
 */
public class Clients {
    public static void main(String[] arguments) throws Exception {
        System.out.println("ready");
        System.in.read();
        if (arguments.length == 0) {
            return;
        }
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        String[] more = {"", ",\"stream\":true,\"stream_options\":{\"include_usage\":true}"};
        for (String streamed : more) {
            String body = "{\"model\":\"gpt-4o-mini\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]" + streamed + "}";
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0] + "/v1/chat/completions"))
                    .header("content-type", "application/json")
                    .POST(HttpRequest.BodyPublishers.ofString(body))
                    .build();
            var answer = client.send(request, BodyHandlers.ofLines());
            System.out.println(answer.statusCode() + " " + answer.body().count());
        }
    }
}
