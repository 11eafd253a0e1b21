import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * Requests by lines on stdin, answers by lines on stdout: what the drivers of all Java clients have in common.
 *
 * <p>Request: {@code <id> <verb> <query string>}. Answers: any number of {@code <id> row <query string>}, then
 * {@code <id> done} or {@code <id> fail error=..&code=..}. Messages of push consumers arrive as
 * {@code event <consumer name> <query string>}. Each request runs on a thread of its own, so a long one (sending while
 * the broker restarts) does not hold up the others.
 */
final class Lines {
    private static final PrintStream OUT = new PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), false);

    /** Takes the rows of an answer. */
    interface Answer {
        void row(Row row);
    }

    /** What a driver does. */
    interface Verbs {
        void run(String verb, Args args, Answer answer) throws Exception;

        /** Adds what is known of a failure. */
        Row failure(Row row, Throwable e);
    }

    private Lines() {
    }

    static void line(String text) {
        byte[] bytes = (text + "\n").getBytes(StandardCharsets.UTF_8);
        synchronized (OUT) {
            OUT.write(bytes, 0, bytes.length);
            OUT.flush();
        }
    }

    /** Serves until stdin ends, then ends the process. */
    static void serve(Verbs verbs) throws Exception {
        ExecutorService threads = Executors.newCachedThreadPool();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        line("ready");
        String request;
        while ((request = in.readLine()) != null) {
            final String[] part = request.split(" ", 3);
            threads.execute(() -> {
                try {
                    verbs.run(part[1], Args.parse(part.length > 2 ? part[2] : ""), row -> line(part[0] + " row " + row));
                    line(part[0] + " done");
                } catch (Throwable e) {
                    line(part[0] + " fail " + verbs.failure(new Row(), e));
                }
            });
        }
        Runtime.getRuntime().halt(0);
    }
}
