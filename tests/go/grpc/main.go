// Drives the official Go client of the gRPC protocol by lines, with the verbs of tests/java/grpc/GrpcDriver.java.
package main

import (
	"context"
	"fmt"
	"hash/crc32"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"ferromq/contract/lines"

	rocketmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
)

var (
	producers sync.Map
	consumers sync.Map
	simples   sync.Map
	// What simple consumers hold, by message id.
	held sync.Map
)

func main() {
	if err := os.Setenv("rocketmq.client.logRoot", os.Getenv("HOME")); err != nil {
		panic(err)
	}
	rocketmq.ResetLogger()
	lines.Serve(run, func(r lines.Row, err error) lines.Row {
		if status, ok := rocketmq.AsErrRpcStatus(err); ok {
			r = r.Put("code", status.Code)
		}
		return r.Put("error", err)
	})
}

func find[T any](table *sync.Map, args url.Values) (found T, err error) {
	value, ok := table.Load(args.Get("name"))
	if !ok {
		return found, fmt.Errorf("nothing started is called %q", args.Get("name"))
	}
	return value.(T), nil
}

func run(verb string, args url.Values, answer func(lines.Row)) error {
	background := context.Background()
	switch verb {
	case "producer":
		return startProducer(args)
	case "send":
		producer, err := find[rocketmq.Producer](&producers, args)
		if err != nil {
			return err
		}
		for _, spec := range args["m"] {
			message, err := build(spec)
			if err != nil {
				return err
			}
			receipts, err := producer.Send(background, message)
			if err != nil {
				return err
			}
			answer(result(receipts[0]))
		}
		return nil
	case "transact":
		return transact(args, answer)
	case "recall":
		producer, err := find[rocketmq.Producer](&producers, args)
		if err != nil {
			return err
		}
		id, err := producer.Recall(background, args.Get("topic"), args.Get("handle"))
		answer(lines.Row{}.Put("id", id))
		return err
	case "consumer":
		return startConsumer(args)
	case "lite":
		return startLite(args)
	case "subscribe", "unsubscribe":
		lite, err := find[rocketmq.LitePushConsumer](&consumers, args)
		if err != nil {
			return err
		}
		if verb == "subscribe" {
			return lite.SubscribeLite(args.Get("lite"))
		}
		return lite.UnSubscribeLite(args.Get("lite"))
	case "simple":
		return startSimple(args)
	case "receive", "ack", "invisible":
		return consume(verb, args, answer)
	case "stop":
		return stop(args.Get("name"))
	}
	return fmt.Errorf("unknown verb %s", verb)
}

func config(args url.Values) *rocketmq.Config {
	return &rocketmq.Config{
		Endpoint:      args.Get("endpoints"),
		NameSpace:     args.Get("namespace"),
		ConsumerGroup: args.Get("group"),
		Credentials:   &credentials.SessionCredentials{},
	}
}

func subscription(args url.Values) map[string]*rocketmq.FilterExpression {
	filter := rocketmq.NewFilterExpression(lines.Get(args, "expression", "*"))
	if sql := args.Get("sql"); sql != "" {
		filter = rocketmq.NewFilterExpressionWithType(sql, rocketmq.SQL92)
	}
	return map[string]*rocketmq.FilterExpression{args.Get("topic"): filter}
}

func startProducer(args url.Values) error {
	options := []rocketmq.ProducerOption{rocketmq.WithTopics(args.Get("topic"))}
	if args.Has("check") {
		name := args.Get("name")
		options = append(options, rocketmq.WithTransactionChecker(&rocketmq.TransactionChecker{
			Check: func(m *rocketmq.MessageView) rocketmq.TransactionResolution {
				lines.Line("event %s %s", name, message(m))
				return rocketmq.COMMIT
			},
		}))
	}
	producer, err := rocketmq.NewProducer(config(args), options...)
	if err == nil {
		err = producer.Start()
	}
	producers.Store(args.Get("name"), producer)
	return err
}

func startConsumer(args url.Values) error {
	consumer, err := rocketmq.NewPushConsumer(config(args), pushing(args,
		rocketmq.WithPushSubscriptionExpressions(subscription(args)))...)
	if err == nil {
		err = consumer.Start()
	}
	consumers.Store(args.Get("name"), consumer)
	return err
}

func startLite(args url.Values) error {
	bound := rocketmq.NewLitePushConsumerConfig(args.Get("topic"), 30*time.Second)
	lite, err := rocketmq.NewLitePushConsumer(config(args), bound, pushing(args)...)
	if err == nil {
		err = lite.Start()
	}
	consumers.Store(args.Get("name"), lite)
	return err
}

// What push consumers of both kinds have in common: they tell each message, and fail its first deliveries as often as asked.
func pushing(args url.Values, further ...rocketmq.PushConsumerOption) []rocketmq.PushConsumerOption {
	name, failing := args.Get("name"), int32(lines.Num(args, "fail", 0))
	return append(further,
		rocketmq.WithPushAwaitDuration(5*time.Second),
		rocketmq.WithPushConsumptionThreadCount(4),
		rocketmq.WithPushMessageListener(&rocketmq.FuncMessageListener{
			Consume: func(m *rocketmq.MessageView) rocketmq.ConsumerResult {
				lines.Line("event %s %s", name, message(m))
				if m.GetDeliveryAttempt() <= failing {
					return rocketmq.FAILURE
				}
				return rocketmq.SUCCESS
			},
		}))
}

func startSimple(args url.Values) error {
	simple, err := rocketmq.NewSimpleConsumer(config(args),
		rocketmq.WithSimpleAwaitDuration(5*time.Second),
		rocketmq.WithSimpleSubscriptionExpressions(subscription(args)))
	if err == nil {
		err = simple.Start()
	}
	simples.Store(args.Get("name"), simple)
	return err
}

func consume(verb string, args url.Values, answer func(lines.Row)) error {
	simple, err := find[rocketmq.SimpleConsumer](&simples, args)
	if err != nil {
		return err
	}
	invisible := time.Duration(lines.Num(args, "invisible", 10_000)) * time.Millisecond
	if verb == "receive" {
		messages, err := simple.Receive(context.Background(), int32(lines.Num(args, "max", 16)), invisible)
		if status, ok := rocketmq.AsErrRpcStatus(err); ok && status.Code == 40401 {
			// No message in time: for the other clients that is no error.
			err = nil
		}
		for _, m := range messages {
			held.Store(m.GetMessageId(), m)
			answer(message(m))
		}
		return err
	}
	found, ok := held.Load(args.Get("id"))
	if !ok {
		return fmt.Errorf("no message %s is held", args.Get("id"))
	}
	if verb == "ack" {
		return simple.Ack(context.Background(), found.(*rocketmq.MessageView))
	}
	return simple.ChangeInvisibleDuration(found.(*rocketmq.MessageView), invisible)
}

func stop(name string) error {
	for _, table := range []*sync.Map{&producers, &consumers, &simples} {
		if found, ok := table.LoadAndDelete(name); ok {
			return found.(interface{ GracefulStop() error }).GracefulStop()
		}
	}
	return nil
}

func build(spec string) (*rocketmq.Message, error) {
	args, err := url.ParseQuery(spec)
	if err != nil {
		return nil, err
	}
	message := &rocketmq.Message{Topic: args.Get("topic"), Body: []byte(args.Get("body"))}
	for key, values := range args {
		switch {
		case key == "tags":
			message.SetTag(values[0])
		case key == "keys":
			message.SetKeys(strings.Split(values[0], " ")...)
		case key == "group":
			message.SetMessageGroup(values[0])
		case key == "delay":
			message.SetDelayTimestamp(time.Now().Add(time.Duration(lines.Num(args, "delay", 0)) * time.Millisecond))
		case key == "lite":
			message.SetLiteTopic(values[0])
		case key == "priority":
			if err := message.SetPriority(int32(lines.Num(args, "priority", 0))); err != nil {
				return nil, err
			}
		case strings.HasPrefix(key, "p."):
			message.AddProperty(key[2:], values[0])
		}
	}
	return message, nil
}

func result(receipt *rocketmq.SendReceipt) lines.Row {
	return lines.Row{}.Put("id", receipt.MessageID).Put("recall", receipt.RecallHandle)
}

func transact(args url.Values, answer func(lines.Row)) error {
	producer, err := find[rocketmq.Producer](&producers, args)
	if err != nil {
		return err
	}
	for _, spec := range args["m"] {
		message, err := build(spec)
		if err != nil {
			return err
		}
		transaction := producer.BeginTransaction()
		receipts, err := producer.SendWithTransaction(context.Background(), message, transaction)
		if err != nil {
			return err
		}
		answer(result(receipts[0]))
		switch args.Get("end") {
		case "commit":
			err = transaction.Commit()
		case "rollback":
			err = transaction.RollBack()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func message(m *rocketmq.MessageView) lines.Row {
	body := m.GetBody()
	row := lines.Row{}.Put("topic", m.GetTopic()).Put("id", m.GetMessageId()).Put("attempt", m.GetDeliveryAttempt()).
		Put("len", len(body)).Put("crc", crc32.ChecksumIEEE(body)).Put("body", string(body)).
		Put("keys", strings.Join(m.GetKeys(), " ")).Put("at", time.Now().UnixMilli())
	if tag := m.GetTag(); tag != nil {
		row = row.Put("tags", *tag)
	}
	if group := m.GetMessageGroup(); group != nil {
		row = row.Put("group", *group)
	}
	if lite := m.GetLiteTopic(); lite != "" {
		row = row.Put("lite", lite)
	}
	if delivery := m.GetDeliveryTimestamp(); delivery != nil {
		row = row.Put("delivery", delivery.UnixMilli())
	}
	for key, value := range m.GetProperties() {
		row = row.Put("p."+key, value)
	}
	return row
}
